"""What was planned and said in a session, for those who read or compare it; kept only where asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_qemuvm.machine.recording import Recording
from pytest_qemuvm.plan.stable import Stable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pytest_qemuvm.host.provision import Provisioner
    from pytest_qemuvm.machine.observed import Observed


class Recordings:
    """The recordings of a session's VMs since ``begin``, in the order in which they were planned."""

    def __init__(self, tag: str, root: Path, provisioner: Provisioner) -> None:
        self._tag = tag
        self._root = root
        self._provisioner = provisioner
        self._kept: list[Recording] = []
        self._chosen_names: set[str] = set()
        self.on = False
        """Whether what is planned from now on is kept."""

    def __iter__(self) -> Iterator[Recording]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def begin(self) -> None:
        """Keep the plans of all VMs from now on, and what comes of them."""
        self.on = True
        if self._provisioner.made is None:
            self._provisioner.made = []

    def end(self) -> None:
        """Forget what was recorded, and record nothing from now on."""
        self.on = False
        self._kept = []
        self._provisioner.made = None

    def chosen(self, name: str) -> None:
        """Note a name that the harness chose: another run may choose another."""
        self._chosen_names.add(name)

    def planned(self, owner: str, vm: Observed) -> None:
        """Keep the plan of a VM, where plans are kept."""
        if self.on:
            system = f"qemu-system-{vm.blueprint.world.arch.system}"
            self._kept.append(Recording(owner, vm.plan, system))

    def started(self, vm: Observed) -> None:
        """Keep what is said to a VM from now on, where its plan was kept."""
        plans = (vm.plan, vm.plan.booting)
        recording = next((each for each in self._kept if any(each.plan is one for one in plans)), None)
        if recording is not None and vm.live is not None:
            recording.begin(vm.live.qmp)

    def of(self, owners: Iterable[str], places: Mapping[str, str]) -> list[dict[str, Any]]:
        """Return what was recorded of the VMs of some owners as plain data that is the same in every run.

        ``places`` are directories by the words that are written for them.
        """
        wanted = set(owners)
        mine = [recording for recording in self._kept if recording.owner in wanted]
        names = [recording.plan.name for recording in mine]
        chosen = [name for name in names if name in self._chosen_names]
        stable = Stable(self._tag, {"<session>": str(self._root), **places}, chosen)
        for name in names:
            stable.knows(name)
        made = self._provisioner.made or ()
        return [stable.value(recording.as_dict(made)) for recording in mine]

    def forget(self, owners: Iterable[str]) -> None:
        """Keep what was recorded of the VMs of some owners no longer."""
        gone = set(owners)
        self._kept = [recording for recording in self._kept if recording.owner not in gone]
        # What has been removed belongs to no VM that is still recorded.
        self._provisioner.made = [
            image for image in self._provisioner.made or () if Path(image.path).exists()
        ]
