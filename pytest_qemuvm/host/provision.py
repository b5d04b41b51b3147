"""The one seam between planning and doing.

A provisioner takes a plan and makes it real. Everything above is the same code whichever provisioner it was
given: that is what keeps dry-run and real mode from growing apart.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pytest_qemuvm.errors import NotSupportedInDryRun, QemuVMError
from pytest_qemuvm.host.images import grow_image, make_image
from pytest_qemuvm.host.paths import runtime_root
from pytest_qemuvm.host.process import QemuProcess, spawn
from pytest_qemuvm.host.reaper import Reaper
from pytest_qemuvm.host.sources import Sources, UnreadSources

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import ExitStack

    from pytest_qemuvm.plan import ImagePlan, MachinePlan

LOG_NAME = "qemu.log"


@dataclass(frozen=True, slots=True)
class Provisioned:
    """A started QEMU and our ends of the sockets it inherited."""

    process: QemuProcess
    sockets: Mapping[str, socket.socket]


class Provisioner(Protocol):
    """Makes a plan real."""

    mode: str
    """``"real"`` or ``"dry-run"``."""
    sources: Sources
    """What the user's files were like when machines began to use them."""

    def prepare(self, plan: MachinePlan, run_dir: Path, stack: ExitStack) -> None:
        """Make the directory and the files of the plan; what undoes it goes onto the stack first."""

    def make_image(self, image: ImagePlan, stack: ExitStack) -> None:
        """Make an image file; what removes it goes onto the stack."""

    def make_disk(self, image: ImagePlan) -> None:
        """Make an image file that belongs to the session; its directory too, if need be."""

    def grow_disk(self, path: Path, image_format: str, size: int) -> None:
        """Make an image that nobody has open larger; ``size`` in bytes."""

    def launch(self, plan: MachinePlan, run_dir: Path, stack: ExitStack) -> Provisioned:
        """Start QEMU; what undoes it goes onto the stack."""

    def helpers(self) -> frozenset[int]:
        """Return the pids of the session's own helpers."""
        ...

    def close(self) -> None:
        """Remove what the session itself had; called when all its VMs are gone."""


class RealProvisioner:
    """Makes files and processes."""

    mode = "real"

    def __init__(self, tag: str, root: Path) -> None:
        self._tag = tag
        self._root = root
        self.sources = Sources()
        self._reaper = Reaper(tag)
        self._lock = threading.Lock()
        self._has_root = False

    def _ensure_root(self) -> None:
        """Make the session's directory with the first VM, and have it watched before it exists."""
        with self._lock:
            if not self._has_root:
                self._reaper.watch_directory(self._root)
                runtime_root()
                self._root.mkdir(mode=0o700)
                self._has_root = True

    def prepare(self, plan: MachinePlan, run_dir: Path, stack: ExitStack) -> None:
        """Make the run directory, the firmware and the disks' images."""
        stack.callback(shutil.rmtree, run_dir, ignore_errors=True)
        with _typed(f"the files of VM {plan.name!r} cannot be made"):
            self._ensure_root()
            run_dir.mkdir(mode=0o700)
            if plan.firmware is not None:
                path, content = plan.firmware
                Path(path).write_bytes(content)
        for image in plan.images:
            self.make_image(image, stack)

    def make_image(self, image: ImagePlan, stack: ExitStack) -> None:
        """Make one image."""
        path = Path(image.path)
        make_image(image, path)
        stack.callback(path.unlink, missing_ok=True)

    def make_disk(self, image: ImagePlan) -> None:
        """Make an image below the session's directory."""
        path = Path(image.path)
        with _typed(f"the disk {path.name!r} cannot be made"):
            self._ensure_root()
            path.parent.mkdir(mode=0o700, exist_ok=True)
        make_image(image, path)

    def grow_disk(self, path: Path, image_format: str, size: int) -> None:
        """Make an image larger."""
        grow_image(path, image_format, size)

    def launch(self, plan: MachinePlan, run_dir: Path, stack: ExitStack) -> Provisioned:
        """Start QEMU with one end of each socket pair; its copies on our side are closed at once."""
        ours: dict[str, socket.socket] = {}
        theirs: dict[str, socket.socket] = {}
        try:
            with _typed(f"VM {plan.name!r} cannot be launched"):
                for name in plan.sockets:
                    ours[name], theirs[name] = socket.socketpair()
                    stack.callback(ours[name].close)
                numbers = {name: end.fileno() for name, end in theirs.items()}
                process = spawn(
                    plan.argv_with(numbers), numbers.values(), run_dir / LOG_NAME, cwd=run_dir, tag=self._tag
                )
        finally:
            for end in theirs.values():
                end.close()
        stack.callback(process.close)
        return Provisioned(process, ours)

    def helpers(self) -> frozenset[int]:
        """Return the reaper's pid."""
        return frozenset({self._reaper.pid} if self._reaper.pid is not None else ())

    def close(self) -> None:
        """Remove the session's directory and let the reaper go."""
        with self._lock:
            if self._has_root:
                shutil.rmtree(self._root, ignore_errors=True)
                # The directory of all sessions stays as long as another one uses it.
                with contextlib.suppress(OSError):
                    self._root.parent.rmdir()
            self._reaper.close()


@contextlib.contextmanager
def _typed(brief: str) -> Iterator[None]:
    """Turn what the operating system refuses into an error of the harness."""
    try:
        yield
    except OSError as error:
        raise QemuVMError(f"{brief}: {error}", hint="is there room, and may you write there?") from error


class PlanningProvisioner:
    """Dry-run: everything is planned, nothing is made."""

    mode = "dry-run"

    def __init__(self) -> None:
        self.sources: Sources = UnreadSources()

    def prepare(self, plan: MachinePlan, run_dir: Path, stack: ExitStack) -> None:
        """Make nothing."""

    def make_image(self, image: ImagePlan, stack: ExitStack) -> None:
        """Make nothing."""

    def make_disk(self, image: ImagePlan) -> None:
        """Say that there will be no file."""
        raise NotSupportedInDryRun(
            f"dry-run: the disk {Path(image.path).name!r} was planned, not made",
            hint="run with --qemu-real for a real one",
        )

    def grow_disk(self, path: Path, image_format: str, size: int) -> None:
        """Grow nothing: no disk was made."""

    def launch(self, plan: MachinePlan, run_dir: Path, stack: ExitStack) -> Provisioned:
        """Say that there will be no machine; the plan has been made and checked by then."""
        raise NotSupportedInDryRun(
            f"dry-run: VM {plan.name!r} was planned, not started",
            hint="run with --qemu-real for a real machine, or read the plan with --qemu-plan",
        )

    def helpers(self) -> frozenset[int]:
        """Return none: nothing was started."""
        return frozenset()

    def close(self) -> None:
        """Remove nothing: nothing was made."""
