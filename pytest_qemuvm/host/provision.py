"""The one seam between planning and doing.

A provisioner takes a plan and makes it real. Everything above is the same code whichever provisioner it was
given: that is what keeps dry-run and real mode from growing apart.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from pytest_qemuvm.errors import NotSupportedInDryRun, QemuVMError
from pytest_qemuvm.host.images import grow_image, make_image
from pytest_qemuvm.host.lease import Lease, Origin
from pytest_qemuvm.host.process import LOG_NAME, QemuProcess, spawn
from pytest_qemuvm.host.reaper import Reaper
from pytest_qemuvm.host.sockets import listen
from pytest_qemuvm.host.sources import Sources, UnreadSources
from pytest_qemuvm.host.sweep import RECORD, boot_id
from pytest_qemuvm.plan import MONITOR

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import ExitStack

    from pytest_qemuvm.plan import ImagePlan, MachinePlan

    Listing = Mapping[str, Any]

NO_FILES: Mapping[str, int] = MappingProxyType({})

FRESH = ".new"
"""What the name of a session's record ends with until it replaces the old one."""


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

    def launch(
        self, plan: MachinePlan, run_dir: Path, stack: ExitStack, files: Mapping[str, int] = NO_FILES
    ) -> Provisioned:
        """Start QEMU; what undoes it goes onto the stack.

        ``files`` are descriptors by name that it inherits too; they stay the caller's.
        """

    def publish(self, listing: Listing) -> None:
        """Let others on the host know what the session has: ``qemuvm ps``, and whoever sweeps after it."""

    @property
    def helpers(self) -> frozenset[int]:
        """Pids of processes of the session that are no machines: its reaper."""
        ...

    @property
    def own_files(self) -> tuple[Path, ...]:
        """Files in the session's directory that belong to no machine."""
        ...

    def close(self) -> None:
        """Remove what the session itself had; called when all its VMs are gone."""


class RealProvisioner:
    """Makes files and processes."""

    mode = "real"

    def __init__(self, tag: str, root: Path, origin: Origin, last_words: Sequence[str] = ()) -> None:
        self._tag = tag
        self._root = root
        self.sources = Sources()
        self._origin = origin
        self._last_words = tuple(last_words)
        self._reaper = Reaper(tag)
        self._lease = Lease(root.parent, tag, origin)
        self._lock = threading.Lock()
        self._has_root = False
        self._processes: dict[str, tuple[int, int]] = {}

    def _ensure_root(self) -> None:
        """Take the lease and make the session's directory with the first VM, or when they were deleted.

        Both are watched before they exist, and nothing of the session is on the disk before its lease is.
        """
        with self._lock:
            if not self._has_root:
                self._reaper.watch_lease(self._lease.path)
                self._reaper.watch_directory(self._root)
                if self._origin.controller is not None:
                    self._reaper.watch_controller(*self._origin.controller)
                self._has_root = True
            self._lease.take()
            self._root.mkdir(mode=0o700, exist_ok=True)

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

    def launch(
        self, plan: MachinePlan, run_dir: Path, stack: ExitStack, files: Mapping[str, int] = NO_FILES
    ) -> Provisioned:
        """Start QEMU with one end of each socket pair; its copies on our side are closed at once."""
        ours: dict[str, socket.socket] = {}
        theirs: dict[str, socket.socket] = {}
        try:
            with _typed(f"VM {plan.name!r} cannot be launched"):
                for name in plan.sockets:
                    ours[name], theirs[name] = socket.socketpair()
                    stack.callback(ours[name].close)
                # QEMU removes it when it ends in order, and cannot when it is killed.
                stack.callback(Path(plan.monitor).unlink, missing_ok=True)
                theirs[MONITOR] = listen(Path(plan.monitor))
                numbers = {**files, **{name: end.fileno() for name, end in theirs.items()}}
                argv = (*plan.argv_with(numbers), *self._parting_words())
                process = spawn(argv, numbers.values(), run_dir / LOG_NAME, cwd=run_dir, tag=self._tag)
        finally:
            for end in theirs.values():
                end.close()
        stack.callback(self._ended, plan.name, process)
        self._reaper.watch_process(process.pid, process.ticks)
        self._processes[plan.name] = process.pid, process.ticks
        return Provisioned(process, ours)

    def _parting_words(self) -> tuple[str, ...]:
        """Return what has QEMU end with us, where that can be trusted.

        The kernel tells QEMU of the death of the thread that started it, not of the process. A thread of a
        test may end while its machine is still wanted.
        """
        return self._last_words if threading.current_thread() is threading.main_thread() else ()

    def _ended(self, name: str, process: QemuProcess) -> None:
        process.close()
        if self._processes.get(name) == (process.pid, process.ticks):
            del self._processes[name]
        self._reaper.forget_process(process.pid, process.ticks)

    def publish(self, listing: Listing) -> None:
        """Replace the session's record, which readers see whole, old or new."""
        with self._lock:
            processes = dict(self._processes)
            content = {"boot": boot_id(), "processes": list(processes.values()), "links": [], **listing}
            for vm in content.get("vms", ()):
                vm["process"] = processes.get(vm["name"])
            path = self._root / RECORD
            # A record only tells of things: where it cannot be written, nothing else is the worse for it.
            with contextlib.suppress(OSError):
                fresh = path.with_suffix(FRESH)
                fresh.write_text(json.dumps(content))
                fresh.replace(path)
        self._reaper.settle()

    @property
    def helpers(self) -> frozenset[int]:
        """The reaper, while there is one."""
        return frozenset() if self._reaper.pid is None else frozenset((self._reaper.pid,))

    @property
    def own_files(self) -> tuple[Path, ...]:
        """The session's record, and what is about to replace it."""
        record = self._root / RECORD
        return record, record.with_suffix(FRESH)

    def close(self) -> None:
        """Remove the session's directory and its lease, and let the reaper go."""
        with self._lock:
            if self._has_root:
                shutil.rmtree(self._root, ignore_errors=True)
            # Before the reaper: it still sees to the lease should we be killed on this very line.
            self._lease.release()
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

    def launch(
        self, plan: MachinePlan, run_dir: Path, stack: ExitStack, files: Mapping[str, int] = NO_FILES
    ) -> Provisioned:
        """Say that there will be no machine; the plan has been made and checked by then."""
        raise NotSupportedInDryRun(
            f"dry-run: VM {plan.name!r} was planned, not started",
            hint="run with --qemu-real for a real machine, or read the plan with --qemu-plan",
        )

    def publish(self, listing: Listing) -> None:
        """Tell nobody: there is nothing."""

    @property
    def helpers(self) -> frozenset[int]:
        """None."""
        return frozenset()

    @property
    def own_files(self) -> tuple[Path, ...]:
        """None."""
        return ()

    def close(self) -> None:
        """Remove nothing: nothing was made."""
