"""What can go wrong on a network: parts that do not hear each other, and frames that suffer on their way."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

from pytest_qemuvm.errors import NotConnected, SpecError
from pytest_qemuvm.machine.networks.wires import SegmentOutlet, SegmentWire
from pytest_qemuvm.spec.names import name_of, new_file
from pytest_qemuvm.spec.seeds import chosen_seed
from pytest_qemuvm.spec.segment import Impairment
from pytest_qemuvm.spec.sizes import parse_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from contextlib import ExitStack
    from pathlib import Path

    from pytest_qemuvm.host.switch import Capture, Port, Rule, Segment
    from pytest_qemuvm.machine.faults.ledger import Fault, FaultLedger
    from pytest_qemuvm.machine.networks.network import Joint
    from pytest_qemuvm.machine.networks.wires import Wire
    from pytest_qemuvm.machine.vm import VM

Side = "VM | str | Iterable[VM | str]"


class NetworkFaults:
    """The faults of a network. Each is in force when its call returns, and may change while traffic flows."""

    def __init__(self, name: str, wire: Wire, ledger: FaultLedger) -> None:
        self.name = name
        self.wire = wire
        """What it is made of; for the harness."""
        self._ledger = ledger

    def joints(self, vm: str | None = None) -> list[Joint]:
        """Return the connections of all NICs, or of a VM's."""
        raise NotImplementedError

    def partition(self, *sides: VM | str | Iterable[VM | str]) -> Fault:
        """Let no frame pass between the sides; each is a VM, or several.

        One side alone is cut off from all others. A VM that is on no side hears all, and is heard by all.
        """
        named = [self._names(side) for side in sides]
        if not named:
            raise SpecError("partition() of nobody", hint="write network.partition([a], [b, c])")
        self._check_apart(named)
        if len(named) == 1:
            rest = [joint.vm for joint in self.joints() if joint.vm not in named[0]]
            if not rest:
                raise SpecError(f"there is nobody in network {self.name!r} but {', '.join(named[0])}")
            named.append(list(dict.fromkeys(rest)))
        segment = self._segment("partition")
        ports = [self._ports(names) for names in named]
        what = f"partition of network {self.name!r}: {' | '.join(', '.join(names) for names in named)}"
        return self._injected(what, partial(segment.partition, ports))

    def one_way(self, source: VM | str | Iterable[VM | str], target: VM | str | Iterable[VM | str]) -> Fault:
        """Let no frame pass from the source to the target; the other way all do."""
        named = [self._names(source), self._names(target)]
        self._check_apart(named)
        segment = self._segment("one_way")
        ports = [self._ports(names) for names in named]
        what = f"network {self.name!r}: nothing from {', '.join(named[0])} to {', '.join(named[1])}"
        return self._injected(what, partial(segment.block, *ports))

    def impair(  # noqa: PLR0913  # each is one thing that happens to frames
        self,
        *,
        loss: float = 0.0,
        delay: float = 0.0,
        jitter: float = 0.0,
        duplicate: float = 0.0,
        reorder: float = 0.0,
        bandwidth: int | str | None = None,
        seed: int | None = None,
        source: VM | str | Iterable[VM | str] | None = None,
        target: VM | str | Iterable[VM | str] | None = None,
    ) -> Fault:
        """Have frames suffer: all, or those from ``source``, or to ``target``, or both.

        ``loss``, ``duplicate`` and ``reorder`` are shares from 0 to 1 of the frames that are lost, come
        twice, or overtake others; ``delay`` is in seconds each way, and varies by as much as ``jitter``;
        ``bandwidth`` is in bytes a second: ``"1M"``. The same ``seed`` has the same fate for the same frames;
        left out, one is chosen, and the report says which. Raises SpecError for what cannot be.
        """
        limit = parse_size(bandwidth, "bandwidth") if bandwidth is not None else None
        seed = chosen_seed(seed)
        impairment = Impairment(loss, delay, jitter, duplicate, reorder, limit, seed)
        segment = self._segment("impair")
        ways = [self._names(side) if side is not None else None for side in (source, target)]
        ports = [self._ports(names) if names is not None else None for names in ways]
        start, end = (", ".join(names) if names is not None else "all" for names in ways)
        given = ", ".join(
            f"{key}={value}" for key, value in asdict(impairment).items() if value or key == "seed"
        )
        what = f"network {self.name!r}, {start} to {end}: {given}"
        return self._injected(what, partial(segment.impair, impairment, *ports))

    def heal(self) -> None:
        """End all faults of this network."""
        for fault in reversed(self._ledger.active(subject=self)):
            fault.heal()

    def _injected(self, what: str, rule: Callable[[], Rule]) -> Fault:
        def act(undo: ExitStack) -> None:
            undo.callback(rule().remove)

        return self._ledger.inject(what, self, act)

    def _segment(self, what: str) -> Segment:
        """Return the switch's segment. Raises SpecError where this network has none."""
        if isinstance(self.wire, SegmentWire):
            return self.wire.segment
        raise SpecError(
            f"network {self.name!r} has no {what}: its frames do not pass through the harness",
            hint="kind='segment' has it; vm.faults.link_down() works on every network",
        )

    def _names(self, side: VM | str | Iterable[VM | str]) -> list[str]:
        """Return the names of the VMs of a side. Raises SpecError, NotConnected."""
        several: Sequence[object]
        if isinstance(side, str) or hasattr(side, "name"):
            several = [side]
        else:
            try:
                several = list(side)
            except TypeError as error:
                raise SpecError(f"{side!r} is neither a VM nor several") from error
        if not several:
            raise SpecError("a side of nobody", hint="name at least one VM")
        names = [str(name_of(vm)) for vm in several]
        known = {joint.vm for joint in self.joints()}
        for name in names:
            if name not in known:
                raise NotConnected(
                    f"VM {name!r} is not in network {self.name!r}",
                    f"in it: {', '.join(sorted(known)) or 'nobody'}",
                )
        return names

    @staticmethod
    def _check_apart(sides: list[list[str]]) -> None:
        """Raise SpecError for a VM that is on several sides, or on one twice."""
        seen: set[str] = set()
        for name in (name for side in sides for name in side):
            if name in seen:
                raise SpecError(f"VM {name!r} cannot be parted from itself", hint="name each VM once")
            seen.add(name)

    def _ports(self, names: Iterable[str]) -> list[Port]:
        wanted = set(names)
        outlets = (joint.outlet for joint in self.joints() if joint.vm in wanted)
        return [outlet.port for outlet in outlets if isinstance(outlet, SegmentOutlet)]

    def _capture(self, path: str | Path, vm: VM | str | None) -> Capture:
        segment = self._segment("capture")
        target = new_file(path, "capture")
        if vm is None:
            return segment.capture(target)
        ports = self._ports(self._names(vm))
        return segment.capture(target, ports[0])
