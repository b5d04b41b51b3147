"""What is to go wrong in the simulators of a session: what the fixture ``sim_faults`` gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_qemuvm.spec.faults import encoded

if TYPE_CHECKING:
    from pytest_qemuvm.host.executables import Executables
    from pytest_qemuvm.spec.faults import Fault


class SimFaults:
    """Call it with faults: VMs that are started from then on have them, until the test ends."""

    def __init__(self, executables: Executables) -> None:
        self._executables = executables
        self._told: dict[str | None, str] = {}

    def __call__(self, *faults: Fault, vm: str | None = None) -> None:
        """Have these go wrong in the VM of that name, or in all that no faults of their own were named for.

        They take the place of what was said before; none at all takes it back. What runs already is not
        touched. Raises NeedsSimulator in real mode, SpecError for faults that contradict each other.
        """
        told = encoded(faults)
        self._executables.require_simulator()
        self._told[vm] = told

    def of(self, vm: str) -> str:
        """Return what is to go wrong in a VM, as its simulator is told; for the harness."""
        return self._told.get(vm, self._told.get(None, ""))

    def clear(self) -> None:
        """Let nothing go wrong any more."""
        self._told.clear()
