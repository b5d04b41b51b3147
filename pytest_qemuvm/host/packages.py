"""The distribution's own package manager: install with privileges, or fetch and unpack without any.

Unpacking needs neither root nor a package database: the manager resolves and downloads into directories of
its own (signatures checked as always), and the files land in one tree per call, ``<into>/<name>_<version>``,
that has ``boot/vmlinuz-*``, ``lib/modules/`` or ``bin/busybox`` wherever the distribution keeps them.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_qemuvm.errors import CapabilityError
from pytest_qemuvm.host.bounded import Outcome, run_bounded
from pytest_qemuvm.host.kernel_tree import give_usual_places, prune_modules

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Progress = Callable[[str], None]

_LEFTOVER = ".unpacking-"
_UNPACK_SECONDS = 1800.0
"""How long another process is waited for that downloads and unpacks, over whatever line it has."""

_NO_NETWORK = (
    "Could not resolve",
    "Temporary failure resolving",
    "Could not connect",
    "Unable to connect",
    "Connection failed",
    "Connection timed out",
    "Network is unreachable",
    "Failed to download metadata",
    "Curl error (6)",
    "Curl error (7)",
    "Curl error (28)",
)
"""What apt and dnf say when they cannot reach their mirrors."""


class PackageError(CapabilityError):
    """The package manager failed; the details hold its command and what it wrote."""


class NoNetwork(PackageError):
    """The package manager could not reach its mirrors."""


class PackageManager(ABC):
    """One distribution's packages, by what this project needs of them.

    ``progress`` is called with one line before each step, the whole command among them.
    """

    name: str
    qemu_packages: tuple[str, ...]
    """Install these for QEMU and qemu-img."""
    busybox_packages: tuple[str, ...]
    """Unpack these for a static busybox."""
    kernel_source: str
    """What the generic kernel is called here."""

    def __init__(self, progress: Progress = print) -> None:
        self._progress = progress

    @abstractmethod
    def install_commands(self, packages: Sequence[str]) -> list[list[str]]:
        """Return the commands that root has to run to install these."""

    @abstractmethod
    def fetch(self, packages: Sequence[str], work: Path) -> list[Path]:
        """Download packages' files to somewhere in ``work``, in the order asked for."""

    @abstractmethod
    def fetch_kernel(self, work: Path) -> list[Path]:
        """Download what makes up the distribution's generic kernel, its image first."""

    @abstractmethod
    def extract(self, file: Path, tree: Path) -> None:
        """Unpack one package's files into a tree."""

    @abstractmethod
    def tree_name(self, file: Path) -> str:
        """Return ``<name>_<version>`` for a downloaded package."""

    def install(self, packages: Sequence[str], *, sudo: bool = False) -> None:
        """Install packages with the system's own database, in the foreground, so that it can ask and show.

        Raises PackageError, or NoNetwork.
        """
        for command in self.install_commands(packages):
            argv = ["sudo", *command] if sudo else command
            self._announce(argv)
            self._judge(_run_in_foreground(argv))

    def unpack(self, packages: Sequence[str], into: Path) -> Path:
        """Fetch packages and unpack them into one tree; return it. A tree that is there already is taken.

        Nothing half-made is ever seen under its final name, whatever kills this. Raises PackageError, or
        NoNetwork.
        """
        return self._unpack(lambda work: self.fetch(packages, work), into)

    def unpack_kernel(self, into: Path) -> Path:
        """Fetch the distribution's generic kernel with its modules, some 70 MB, and return its tree.

        Modules no virtual machine has hardware for (sound, radio, big graphics) are left out: 400 MB become
        about 200.
        """
        return self._unpack(self.fetch_kernel, into)

    def _unpack(self, fetch: Callable[[Path], list[Path]], into: Path) -> Path:
        from pytest_qemuvm.host.deadline import Deadline  # noqa: PLC0415  # only an unpacking needs it
        from pytest_qemuvm.host.locks import locked  # noqa: PLC0415  # as above

        into.mkdir(parents=True, exist_ok=True)
        with locked(
            into / ".lock",
            f"unpacking packages into {into}",
            Deadline.after(_UNPACK_SECONDS),
            lambda holder: self._progress(f"waiting for {holder}, which unpacks packages as well"),
        ):
            for leftover in into.glob(f"{_LEFTOVER}*"):
                shutil.rmtree(leftover, ignore_errors=True)  # of one that was killed: we hold the lock
            work = Path(tempfile.mkdtemp(prefix=_LEFTOVER, dir=into))
            try:
                files = fetch(work)
                target = into / self.tree_name(files[0])
                if not target.exists():
                    self._fill(work / "tree", files).rename(target)
            finally:
                shutil.rmtree(work, ignore_errors=True)
        return target

    def _fill(self, tree: Path, files: Sequence[Path]) -> Path:
        tree.mkdir()
        for file in files:
            self.extract(file, tree)
        give_usual_places(tree)
        dropped = prune_modules(tree)
        if dropped:
            self._progress(f"left out {dropped / 1e6:.0f} MB of drivers for hardware that no VM has")
        return tree

    def _announce(self, argv: Sequence[str]) -> None:
        import shlex  # noqa: PLC0415  # rarely needed

        self._progress(f"$ {shlex.join(argv)}")

    def _run(
        self, argv: Sequence[str], *, seconds: float, cwd: Path | None = None, check: bool = True
    ) -> Outcome:
        """Run a command that neither asks nor shows; raises PackageError with its stderr if it fails."""
        self._announce(argv)
        try:
            outcome = run_bounded(argv, seconds=seconds, cwd=cwd)
        except OSError as error:
            raise PackageError(f"{argv[0]} cannot be started", str(error)) from error
        if check:
            self._judge(outcome)
        return outcome

    def _judge(self, outcome: Outcome) -> None:
        if outcome.ok:
            return
        evidence = outcome.evidence(lines=15)
        if lost_network(outcome.stderr):
            raise NoNetwork(
                f"{self.name} cannot reach its mirrors",
                evidence,
                "check the network and the proxy, or name a kernel of your own with --qemu-kernel",
            )
        raise PackageError(f"{self.name} failed", evidence)


def lost_network(stderr: str) -> bool:
    """Tell from a package manager's words whether it could not reach its mirrors."""
    return any(phrase in stderr for phrase in _NO_NETWORK)


def _run_in_foreground(argv: Sequence[str]) -> Outcome:
    """Run with our own terminal, for passwords and progress, passing stderr on and keeping its end."""
    import time  # noqa: PLC0415  # as above

    start = time.monotonic()
    kept: deque[str] = deque(maxlen=50)
    try:
        process = subprocess.Popen(list(argv), stderr=subprocess.PIPE, text=True, errors="replace")
    except OSError as error:
        raise PackageError(f"{argv[0]} cannot be started", str(error)) from error
    with process:
        assert process.stderr is not None
        for line in process.stderr:
            kept.append(line)
            sys.stderr.write(line)
    return Outcome(tuple(argv), process.returncode, "", "".join(kept), time.monotonic() - start)


def detect(progress: Progress = print) -> PackageManager | None:
    """Return this distribution's package manager, or None if it is one that is not known here."""
    from pytest_qemuvm.host.apt import Apt  # noqa: PLC0415  # they build on this module
    from pytest_qemuvm.host.dnf import Dnf  # noqa: PLC0415

    if shutil.which("apt-get") and shutil.which("dpkg-deb"):
        return Apt(progress)
    if shutil.which("dnf"):
        return Dnf(progress)
    return None
