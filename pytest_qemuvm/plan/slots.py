"""Which slots of a machine are free. QEMU 7.2 silently takes a second device on a root port: we do not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_qemuvm.errors import NoFreeSlot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


Slots = tuple[tuple[str, ...], tuple[tuple[str, str], ...]]
"""The free slots in the order in which they are taken; the others, each with what holds it."""


class SlotLedger:
    """The root ports of a machine: each holds one device."""

    def __init__(self, free: Iterable[str], taken: Iterable[tuple[str, str]] = ()) -> None:
        self._free = list(free)
        self._taken = dict(taken)

    @property
    def taken(self) -> dict[str, str]:
        """Slot -> id of the device that holds it."""
        return dict(self._taken)

    @property
    def state(self) -> Slots:
        """What is free and what is taken now."""
        return tuple(self._free), tuple(self._taken.items())

    def return_to(self, state: Slots) -> None:
        """Make it what it was at an earlier moment."""
        self._free, self._taken = list(state[0]), dict(state[1])

    def take(self, device: str, is_empty: Callable[[str], bool] = lambda _slot: True) -> str:
        """Give a free slot to a device. Raises NoFreeSlot.

        ``is_empty`` tells of a slot whether nothing is in it that this ledger does not know of.
        """
        for slot in self._free:
            if is_empty(slot):
                self._free.remove(slot)
                self._taken[slot] = device
                return slot
        held = [f"{slot} by {holder}" for slot, holder in self._taken.items()]
        held += [f"{slot} by what the test plugged itself" for slot in self._free]
        raise NoFreeSlot(
            f"no free slot for {device!r}",
            f"held: {', '.join(held)}",
            f"ask for more: hotplug_slots={len(held) + 1} or higher",
        )

    def give_back(self, slot: str) -> None:
        """Free a slot; it goes to the end, so that a slot rests as long as it can."""
        if self._taken.pop(slot, None) is not None:
            self._free.append(slot)
