"""The one seam between planning and doing.

A provisioner takes a plan and makes it real: files, sockets, a process. In a dry-run it does the same with
other executables, and everything above is the same code: that keeps the two modes from growing apart.
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
from typing import TYPE_CHECKING, Any

from pytest_qemuvm.errors import QemuVMError
from pytest_qemuvm.host.executables import Executables
from pytest_qemuvm.host.images import grow_image, make_image
from pytest_qemuvm.host.lease import Lease, Origin
from pytest_qemuvm.host.links import HostLinks
from pytest_qemuvm.host.process import LOG_NAME, TAG_VARIABLE, QemuProcess, spawn
from pytest_qemuvm.host.reaper import Reaper
from pytest_qemuvm.host.sockets import listen
from pytest_qemuvm.host.sources import Sources
from pytest_qemuvm.host.sweep import RECORD, boot_id
from pytest_qemuvm.plan import MONITOR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import ExitStack

    from pytest_qemuvm.plan import ImagePlan, MachinePlan

    Listing = Mapping[str, Any]

NO_FILES: Mapping[str, int] = MappingProxyType({})

FRESH = ".new"
"""What the name of a session's record ends with until it replaces the old one."""


def no_faults(vm: str) -> str:  # noqa: ARG001
    """Return that nothing is to go wrong."""
    return ""


@dataclass(frozen=True, slots=True)
class Provisioned:
    """A started QEMU and our ends of the sockets it inherited."""

    process: QemuProcess
    sockets: Mapping[str, socket.socket]
    fails: bool = False
    """Whether it was told to fail at something."""


class Provisioner:
    """Makes files and processes: in both modes the same, with other executables."""

    def __init__(self, tag: str, root: Path, origin: Origin, executables: Executables | None = None) -> None:
        self._tag = tag
        self._root = root
        self.sources = Sources()
        """What the user's files were like when machines began to use them."""
        self.executables = executables or Executables()
        """What is launched."""
        self.faults: Callable[[str], str] = no_faults
        """Return what is to go wrong in the simulator of a VM, by its name, as JSON; nothing: nothing."""
        self.made: list[ImagePlan] | None = None
        """The images that were made, in order, since somebody asked for them to be listed."""
        self._origin = origin
        self._reaper = Reaper(tag)
        self._lease = Lease(root.parent, tag, origin)
        self.links = HostLinks(self._reaper)
        """The network devices of the host that were made."""
        self._lock = threading.Lock()
        self._has_root = False
        self._processes: dict[str, tuple[int, int]] = {}

    @property
    def mode(self) -> str:
        """``"real"`` or ``"dry-run"``."""
        return self.executables.mode

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
        """Make a VM's directory, firmware and images; what undoes it goes onto the stack first."""
        stack.callback(shutil.rmtree, run_dir, ignore_errors=True)
        with _typed(f"the files of VM {plan.name!r} cannot be made"):
            self._ensure_root()
            run_dir.mkdir(mode=0o700)
            if plan.firmware is not None:
                path, content = plan.firmware
                Path(path).write_bytes(content)
            if plan.boot == "kernel":
                self._stand_in(run_dir)
        for image in plan.images:
            self.make_image(image, stack)

    def _stand_in(self, run_dir: Path) -> None:
        """Make what stands for the files of a guest that was not built."""
        for name, content in self.executables.stand_ins.items():
            path = run_dir / name
            path.parent.mkdir(mode=0o700, exist_ok=True)
            path.write_bytes(content)

    def make_image(self, image: ImagePlan, stack: ExitStack) -> None:
        """Make an image file; what removes it goes onto the stack."""
        path = Path(image.path)
        make_image(image, path)
        self._note(image)
        stack.callback(path.unlink, missing_ok=True)

    def make_disk(self, image: ImagePlan) -> None:
        """Make an image file that belongs to the session; its directory too, if need be."""
        path = Path(image.path)
        with _typed(f"the disk {path.name!r} cannot be made"):
            self._ensure_root()
            path.parent.mkdir(mode=0o700, exist_ok=True)
        make_image(image, path)
        self._note(image)

    def _note(self, image: ImagePlan) -> None:
        if self.made is not None:
            self.made.append(image)

    def grow_disk(self, path: Path, image_format: str, size: int) -> None:
        """Make an image that nobody has open larger; ``size`` in bytes."""
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
                faults = self.faults(plan.name)
                process = spawn(
                    argv,
                    numbers.values(),
                    run_dir / LOG_NAME,
                    cwd=run_dir,
                    environment={
                        TAG_VARIABLE: self._tag,
                        **self.executables.environment(faults),
                    },
                    command=self.executables.command(argv),
                )
        finally:
            for end in theirs.values():
                end.close()
        stack.callback(self._ended, plan.name, process)
        self._reaper.watch_process(process.pid, process.ticks)
        self._processes[plan.name] = process.pid, process.ticks
        return Provisioned(process, ours, bool(faults))

    def _parting_words(self) -> tuple[str, ...]:
        """Return what has QEMU end with us, where that can be trusted.

        The kernel tells QEMU of the death of the thread that started it, not of the process. A thread of a
        test may end while its machine is still wanted.
        """
        return self.executables.last_words if threading.current_thread() is threading.main_thread() else ()

    def _ended(self, name: str, process: QemuProcess) -> None:
        process.close()
        if self._processes.get(name) == (process.pid, process.ticks):
            del self._processes[name]
        self._reaper.forget_process(process.pid, process.ticks)

    def publish(self, listing: Listing) -> None:
        """Replace the session's record, which readers see whole, old or new."""
        with self._lock:
            processes = dict(self._processes)
            content = {"boot": boot_id(), "processes": list(processes.values()), **listing}
            content["links"] = list(self.links.names)
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
