"""What is executed: QEMU or its simulator. The one difference between the two modes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_qemuvm.errors import NeedsSimulator, NotSupportedInDryRun

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pytest_qemuvm.host.capabilities import Capabilities

PLANNED_KERNEL = "<tiny>/vmlinux"
PLANNED_INITRD = "<tiny>/initramfs"
"""Names, below a VM's own directory, of what stands for the built-in guest where none is built."""
NOT_MODELLED = "the simulated QEMU does not model "
"""What the simulator's refusals begin with where a real QEMU would have had an answer."""
_STANDS_FOR = b"stands for a file of the built-in guest: in a dry-run nothing boots it\n"
NOT_IN_DRY_RUN = 'mark the test needs="guest", and a dry-run skips it here; --qemu-real has a real machine'


@dataclass(frozen=True, slots=True)
class Executables:
    """What a provisioner launches, and what can be asked of it."""

    mode: str = "real"
    """``"real"`` or ``"dry-run"``."""
    words: tuple[str, ...] = ()
    """What is launched in the place of the command line's first word; nothing: that word itself."""
    last_words: tuple[str, ...] = ()
    """Arguments by which QEMU ends with the thread that started it, if it knows any."""
    fingerprint: str = ""
    """A word for this QEMU: what was learnt of it holds wherever it is the same. Nothing: unknown."""
    listing: str | None = None
    """The binary that can be asked what devices it has; None where there is none to ask."""
    version: str | None = None
    """The version that is simulated; None where nothing is."""
    stand_ins: Mapping[str, bytes] = field(default_factory=dict)
    """Files, by their path below a VM's own directory, that stand for those of a guest."""

    def command(self, argv: Sequence[str]) -> tuple[str, ...]:
        """Return what is executed for a command line of QEMU's."""
        return (*self.words, *argv[1:]) if self.words else tuple(argv)

    def environment(self, faults: str) -> Mapping[str, str]:
        """Return what is added to the environment; ``faults`` is what is to go wrong, as JSON."""
        if self.version is None:
            return {}
        from pytest_qemuvm.host import simulator  # noqa: PLC0415  # real mode does without it

        return simulator.environment(self.version, faults)

    def require_simulator(self) -> None:
        """Raise NeedsSimulator unless things can be made to go wrong."""
        if self.version is None:
            raise NeedsSimulator(
                "only a simulated QEMU fails on demand, and this one is real",
                hint="run the test with --qemu-dry-run",
            )

    @property
    def run_guests(self) -> bool:
        """Whether a machine's processors execute anything."""
        return self.version is None

    def require_guest(self, what: str) -> None:
        """Raise NotSupportedInDryRun unless what a guest does, or shows, is really there."""
        if not self.run_guests:
            raise NotSupportedInDryRun(
                f"dry-run: there is no {what}, because nothing runs in a simulated QEMU", hint=NOT_IN_DRY_RUN
            )

    def require_roms(self, names: Sequence[str]) -> None:
        """Raise CapabilityError unless there are boot ROMs of these names. Simulated NICs have theirs."""
        if names and self.run_guests and self.listing is not None:
            from pytest_qemuvm.host.boot_roms import require_roms  # noqa: PLC0415  # few VMs are booted so

            require_roms(self.listing, names)


def executables_for(capabilities: Capabilities, cache: Path) -> Executables:
    """Return what a session launches; ``cache`` is where a script for the simulator may be put."""
    if capabilities.mode == "real":
        binary = capabilities.binary
        if binary is None:
            return Executables()
        return Executables(
            last_words=binary.parting_words, fingerprint=binary.fingerprint, listing=binary.path
        )
    from pytest_qemuvm.host import simulator  # noqa: PLC0415  # real mode does without it

    version = capabilities.simulates or simulator.OLDEST
    return Executables(
        mode="dry-run",
        words=simulator.words(),
        fingerprint=simulator.fingerprint(version),
        listing=simulator.listing(version, cache),
        version=version,
        stand_ins={PLANNED_KERNEL: _STANDS_FOR, PLANNED_INITRD: _STANDS_FOR},
    )
