"""Every way in which the harness fails, as one tree.

::

    QemuVMError
     +-- SpecError (also ValueError)      a name, size or spec that can never be right
     |    +-- ImageFormatError            a disk image that is not what its format says
     +-- SettingsError                    options, variables and ini contradict each other or make no sense
     +-- CapabilityError                  this host cannot do what was asked
     |    +-- QemuNotFound, QemuUnusable  no QEMU; something that is not a QEMU we can use
     |    +-- AcceleratorUnavailable      an accelerator was demanded and could not be proven
     |    +-- GuestUnavailable            no kernel, no busybox: the built-in guest cannot be made
     |    +-- NoChannel                   this VM has no guest that could be told anything
     |    +-- SimulatorUnusable           the simulated QEMU is not there, or its records are damaged
     +-- LaunchError                      QEMU died before it answered
     +-- GuestBootError (also WaitTimeout) QEMU runs, its guest never came up
     +-- VMStateError
     |    +-- AlreadyRunning, NotRunning
     |    +-- SnapshotExists              the VM has a snapshot of that name
     |    +-- CannotSave                  QEMU cannot save this machine, and says why
     |    +-- RestoreFailed               the way back to a snapshot was begun and not ended
     +-- AmbiguousName                    several sessions have a VM of that name
     +-- VMNotFound, DiskNotFound, TemplateNotFound, NetworkNotFound, SnapshotNotFound
     +-- DiskStateError
     |    +-- DiskExists, AlreadyAttached, NotAttached, InUse
     |    +-- DiskHasFault                a fault of the disk's stands in the way
     +-- ImageModified                    an image of yours changed while it was in use
     +-- TemplateStateError
     |    +-- TemplateExists, TemplateInUse, TemplateModified (also ImageModified)
     +-- NetworkStateError
     |    +-- NetworkExists, NetworkInUse, NotConnected, AddressInUse
     +-- NoFreeSlot                       no bus slot left for a device
     +-- UnplugRejected                   the guest refused to let a device go
     +-- UnplugTimeout (also WaitTimeout) the guest did not let a device go in time
     +-- UnplugIncomplete                 the device is gone, and QEMU keeps what was behind it
     +-- GuestCommandError                a command in the guest failed
     |    +-- GuestCommandTimeout (also WaitTimeout)
     +-- ChannelError                     the way to the guest is broken
     +-- HostFileError (also OSError)     a file of the host could not be read or written for a test
     +-- UnsafeDirectory                  others could write where only the user should
     +-- PathTooLong                      a path that no unix socket can have
     +-- WaitTimeout                      something awaited did not come in time
     |    +-- LockTimeout                 somebody else holds a lock for longer than we wait
     +-- QmpError
     |    +-- ConnectError
     |    |    +-- MonitorBusy            somebody else is connected
     |    +-- QmpDisconnected, CommandError
     |    +-- JobNotFound, JobFailed      a job that nobody has started; one that did not succeed
     |    +-- QmpTimeout (also WaitTimeout)
     |    +-- CommandRejected               never sent to QEMU
     |         +-- InvalidCommandName (also SpecError), UnknownCommand
     |         +-- InvalidArguments (also SpecError)
     |         +-- CommandBlocked           it reaches outside the VM, or runs programs of the host
     +-- ChaosError                       faults by chance that could not be begun, or healed
     +-- CoherenceError                   a test left something behind, or records and facts disagree
     +-- NotSupportedInDryRun             only a real machine could answer this
     +-- NeedsSimulator                   only a simulated machine can do this
     +-- PlanDiffers                      a test's plan is not what its golden file says

An error says what happened (``brief``), the evidence (``details``: argv, exit status, log tail, last console
lines) and what to do about it (``hint``). Tests assert on type and attributes, never on text.
"""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence


def _rebuild(cls: type[QemuVMError], state: dict[str, Any]) -> QemuVMError:
    """Recreate an error on the other side of a pickle without calling its constructor."""
    error = cls.__new__(cls)
    error.__dict__.update(state)
    return error


class QemuVMError(Exception):
    """The base of all failures of the harness.

    ``brief`` is one sentence, ``details`` the evidence (may span lines), ``hint`` what to do next.
    """

    def __init__(self, brief: str, details: str | None = None, hint: str | None = None) -> None:
        super().__init__(brief)
        self.brief = brief
        self.details = details
        self.hint = hint

    def __str__(self) -> str:
        parts = [self.brief]
        if self.details:
            parts.append(self.details)
        if self.hint:
            parts.append(f"hint: {self.hint}")
        return "\n".join(parts)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by state, because subclasses take keyword-only evidence."""
        return _rebuild, (type(self), dict(self.__dict__))


def end_with(end: Callable[[], object], error: BaseException | None, failing: str) -> None:
    """End something on the way out of a ``with``, which ``error`` leaves, if it is one.

    Where the end fails as well, the test's own failure is what went wrong first: it gets a note, which begins
    with ``failing``. Without an error, what the end raises comes out.
    """
    try:
        end()
    except QemuVMError as problem:
        if error is None:
            raise
        error.add_note(f"{failing}: {problem}")


class SpecError(QemuVMError, ValueError):
    """A name, size or spec that can never be right; raised before anything is touched."""


class ImageFormatError(SpecError):
    """The disk image at ``path`` is not what its ``format`` says, or leaves a format to be guessed."""

    def __init__(
        self,
        brief: str,
        details: str | None = None,
        hint: str | None = None,
        *,
        path: str | os.PathLike[str],
        format: str,  # noqa: A002  # QEMU's word
    ) -> None:
        super().__init__(brief, details, hint)
        self.path = os.fspath(path)
        self.format = format


class SettingsError(QemuVMError):
    """Options, environment variables and ini values that make no sense, or contradict one another."""


class CapabilityError(QemuVMError):
    """This host cannot do what was asked of it."""


class QemuNotFound(CapabilityError):
    """There is no QEMU binary where one was looked for."""


class QemuUnusable(CapabilityError):
    """The binary is not a QEMU system emulator, does not start, or is older than the oldest supported."""


class AcceleratorUnavailable(CapabilityError):
    """The accelerator that was demanded could not be proven to work."""


class GuestUnavailable(CapabilityError):
    """Something the built-in guest is made from (a kernel, its modules, busybox) is missing."""


class NoChannel(CapabilityError):
    """There is no channel into this VM's guest, or no guest: nothing can be run in it."""


class SimulatorUnusable(CapabilityError):
    """The simulated QEMU is not there, or what was recorded for it is damaged."""


class LaunchError(QemuVMError):
    """QEMU ended before it could be used.

    ``argv`` is the command line, ``status`` its exit status (negative: killed by that signal; None: it did
    not end but never answered), ``log`` the last lines it wrote.
    """

    def __init__(
        self,
        brief: str,
        details: str | None = None,
        hint: str | None = None,
        *,
        argv: Sequence[str],
        status: int | None,
        log: str,
    ) -> None:
        evidence = [details] if details else []
        evidence.append(f"exit status: {'none' if status is None else status}")
        evidence.append(f"log:\n{log.rstrip() or '(empty)'}")
        evidence.append(f"command line:\n{shlex.join(argv)}")
        super().__init__(brief, "\n".join(evidence), hint)
        self.argv = tuple(argv)
        self.status = status
        self.log = log


class VMStateError(QemuVMError):
    """The VM is not in a state in which this can be done."""


class AlreadyRunning(VMStateError):
    """The VM is running, or being started by somebody else right now."""


class NotRunning(VMStateError):
    """The VM is not running."""


class SnapshotExists(VMStateError):
    """The VM has a snapshot of that name already."""


class CannotSave(VMStateError):
    """QEMU cannot save this machine, and says why in ``details``."""


class RestoreFailed(VMStateError):
    """The way back to a snapshot was begun and could not be ended: the VM is neither here nor there."""


class SnapshotNotFound(QemuVMError, LookupError):
    """The VM has no snapshot of that name in this run."""


class VMNotFound(QemuVMError, LookupError):
    """No VM of that name in this session."""


class AmbiguousName(QemuVMError, LookupError):
    """Several living sessions have a VM of that name; ``sessions`` are their tags."""

    def __init__(
        self, brief: str, details: str | None = None, hint: str | None = None, *, sessions: Sequence[str]
    ) -> None:
        super().__init__(brief, details, hint)
        self.sessions = tuple(sessions)


class DiskNotFound(QemuVMError, LookupError):
    """No disk of that name in this session."""


class TemplateNotFound(QemuVMError, LookupError):
    """No template of that name."""


class NetworkNotFound(QemuVMError, LookupError):
    """No network of that name in this session."""


class DiskStateError(QemuVMError):
    """The disk is not in a state in which this can be done."""


class DiskExists(DiskStateError):
    """There is a disk of that name in this session already."""


class AlreadyAttached(DiskStateError):
    """The disk is attached; ``holder`` is the name of the VM that has it."""

    def __init__(
        self, brief: str, details: str | None = None, hint: str | None = None, *, holder: str
    ) -> None:
        super().__init__(brief, details, hint)
        self.holder = holder


class NotAttached(DiskStateError):
    """The disk or device is not attached (any more)."""


class InUse(DiskStateError):
    """Somebody uses it; ``holder`` names who."""

    def __init__(
        self, brief: str, details: str | None = None, hint: str | None = None, *, holder: str
    ) -> None:
        super().__init__(brief, details, hint)
        self.holder = holder


class TemplateStateError(QemuVMError):
    """The template is not in a state in which this can be done."""


class TemplateExists(TemplateStateError):
    """There is a template of that name in this session already."""


class TemplateInUse(TemplateStateError):
    """VMs, disks or other templates rest on it; ``users`` are their names."""

    def __init__(
        self, brief: str, details: str | None = None, hint: str | None = None, *, users: Sequence[str]
    ) -> None:
        super().__init__(brief, details, hint)
        self.users = tuple(users)


class NetworkStateError(QemuVMError):
    """The network is not in a state in which this can be done."""


class NetworkExists(NetworkStateError):
    """There is a network of that name in this session already, or a device of that name on the host."""


class NetworkInUse(NetworkStateError):
    """VMs are connected to it; ``users`` are their names."""

    def __init__(
        self, brief: str, details: str | None = None, hint: str | None = None, *, users: Sequence[str]
    ) -> None:
        super().__init__(brief, details, hint)
        self.users = tuple(users)


class NotConnected(NetworkStateError):
    """The VM is in no network, or not in this one."""


class AddressInUse(NetworkStateError):
    """Another NIC of the network has the address; ``holder`` says which."""

    def __init__(
        self, brief: str, details: str | None = None, hint: str | None = None, *, holder: str
    ) -> None:
        super().__init__(brief, details, hint)
        self.holder = holder


class DiskHasFault(DiskStateError):
    """The disk has a fault that this cannot be done with; ``fault`` says which."""

    def __init__(
        self, brief: str, details: str | None = None, hint: str | None = None, *, fault: str
    ) -> None:
        super().__init__(brief, details, hint)
        self.fault = fault


class ImageModified(QemuVMError):
    """Disk images of the user's have changed while machines used them; ``paths`` are these.

    What the machines read in the meantime cannot be believed.
    """

    def __init__(
        self, brief: str, details: str | None = None, hint: str | None = None, *, paths: Sequence[str]
    ) -> None:
        super().__init__(brief, details, hint)
        self.paths = tuple(paths)


class TemplateModified(ImageModified, TemplateStateError):
    """Files of a template have changed since it was made; ``paths`` are these."""


class UnplugRejected(QemuVMError):
    """The guest refused to let a device go; it is still plugged. ``device`` is its id."""

    def __init__(
        self, brief: str, details: str | None = None, hint: str | None = None, *, device: str
    ) -> None:
        super().__init__(brief, details, hint)
        self.device = device


class UnplugIncomplete(QemuVMError):
    """The device is gone, and QEMU would not remove all that was behind it.

    ``device`` is its id, ``left`` the names of the nodes, netdevs, objects or chardevs that QEMU still has. A
    second unplug tries again to remove them.
    """

    def __init__(
        self,
        brief: str,
        details: str | None = None,
        hint: str | None = None,
        *,
        device: str,
        left: Sequence[str],
    ) -> None:
        super().__init__(brief, details, hint)
        self.device = device
        self.left = tuple(left)


class NoFreeSlot(QemuVMError):
    """The machine has no slot left on the bus that the device needs."""


class WaitTimeout(QemuVMError):
    """Something did not happen in time.

    ``waited_for`` names it, ``seconds`` is how long it was given.
    """

    def __init__(
        self,
        brief: str,
        details: str | None = None,
        hint: str | None = None,
        *,
        waited_for: str,
        seconds: float,
    ) -> None:
        super().__init__(brief, details, hint)
        self.waited_for = waited_for
        self.seconds = seconds


class UnplugTimeout(WaitTimeout):
    """The guest did not acknowledge that a device goes; it is still plugged. ``device`` is its id."""

    def __init__(
        self,
        brief: str,
        details: str | None = None,
        hint: str | None = None,
        *,
        device: str,
        waited_for: str,
        seconds: float,
    ) -> None:
        super().__init__(brief, details, hint, waited_for=waited_for, seconds=seconds)
        self.device = device


class LockTimeout(WaitTimeout):
    """A lock was not to be had in time; ``holder`` names who has it: pid and test, where they are known."""

    def __init__(
        self,
        brief: str,
        details: str | None = None,
        hint: str | None = None,
        *,
        holder: str,
        waited_for: str,
        seconds: float,
    ) -> None:
        super().__init__(brief, details, hint, waited_for=waited_for, seconds=seconds)
        self.holder = holder


class GuestBootError(WaitTimeout):
    """QEMU runs, but its guest did not come up; ``console`` holds the end of what it said."""

    def __init__(
        self,
        brief: str,
        details: str | None = None,
        hint: str | None = None,
        *,
        waited_for: str,
        seconds: float,
        console: str,
    ) -> None:
        evidence = [details] if details else []
        evidence.append(f"last console lines:\n{console.rstrip() or '(the console said nothing)'}")
        super().__init__(brief, "\n".join(evidence), hint, waited_for=waited_for, seconds=seconds)
        self.console = console


class GuestCommandError(QemuVMError):
    """A command in the guest ended with a status other than 0; ``result`` is its ExecResult."""

    def __init__(
        self, brief: str, details: str | None = None, hint: str | None = None, *, result: Any
    ) -> None:
        super().__init__(brief, details, hint)
        self.result = result


class GuestCommandTimeout(GuestCommandError, WaitTimeout):
    """A command in the guest overran its time and was killed; ``result`` holds what it had written."""

    def __init__(
        self,
        brief: str,
        details: str | None = None,
        hint: str | None = None,
        *,
        result: Any,
        waited_for: str,
        seconds: float,
    ) -> None:
        QemuVMError.__init__(self, brief, details, hint)
        self.result = result
        self.waited_for = waited_for
        self.seconds = seconds


class ChannelError(QemuVMError):
    """The channel to the guest broke, or the guest answered something that is not its protocol."""


class HostFileError(QemuVMError, OSError):
    """A file or directory of the host that a test named, or that a machine needs, is not to be had."""


class UnsafeDirectory(QemuVMError):
    """Others could write to a directory that only the user should use; ``path`` is which."""

    def __init__(
        self,
        brief: str,
        details: str | None = None,
        hint: str | None = None,
        *,
        path: str | os.PathLike[str],
    ) -> None:
        super().__init__(brief, details, hint)
        self.path = os.fspath(path)


class PathTooLong(QemuVMError):
    """A unix socket can have no path of that length; ``path`` is which."""

    def __init__(
        self,
        brief: str,
        details: str | None = None,
        hint: str | None = None,
        *,
        path: str | os.PathLike[str],
    ) -> None:
        super().__init__(brief, details, hint)
        self.path = os.fspath(path)


class QmpError(QemuVMError):
    """Anything that goes wrong between us and QEMU's monitor."""


class ConnectError(QmpError):
    """No QMP greeting, or the negotiation failed."""


class MonitorBusy(ConnectError):
    """Somebody else is connected to the monitor, which has one client at a time; ``path`` is its socket."""

    def __init__(
        self,
        brief: str,
        details: str | None = None,
        hint: str | None = None,
        *,
        path: str | os.PathLike[str],
    ) -> None:
        super().__init__(brief, details, hint)
        self.path = os.fspath(path)


class QmpTimeout(QmpError, WaitTimeout):
    """A reply or an event did not come in time. For a command the outcome is unknown."""

    def __init__(
        self,
        brief: str,
        details: str | None = None,
        hint: str | None = None,
        *,
        waited_for: str,
        seconds: float,
    ) -> None:
        WaitTimeout.__init__(self, brief, details, hint, waited_for=waited_for, seconds=seconds)


class QmpDisconnected(QmpError):
    """The monitor is gone, usually because QEMU is; ``status`` and ``log`` are its last words."""

    def __init__(
        self,
        brief: str,
        details: str | None = None,
        hint: str | None = None,
        *,
        status: int | None = None,
        log: str = "",
    ) -> None:
        evidence = [details] if details else []
        evidence.append(f"exit status of QEMU: {'still running or unknown' if status is None else status}")
        if log:
            evidence.append(f"log:\n{log.rstrip()}")
        super().__init__(brief, "\n".join(evidence), hint)
        self.status = status
        self.log = log


class CommandError(QmpError):
    """QEMU refused a command; ``class_`` and ``desc`` are its own words."""

    def __init__(
        self, brief: str, details: str | None = None, hint: str | None = None, *, class_: str, desc: str
    ) -> None:
        super().__init__(brief, details, hint)
        self.class_ = class_
        self.desc = desc


class CommandRejected(QmpError):
    """A command that was refused before a byte of it was sent."""


class InvalidCommandName(CommandRejected, SpecError):
    """This can be the name of no QMP command."""


class UnknownCommand(CommandRejected):
    """The running QEMU has no such command; ``suggestions`` are the nearest names that it has."""

    def __init__(
        self,
        brief: str,
        details: str | None = None,
        hint: str | None = None,
        *,
        suggestions: Sequence[str] = (),
    ) -> None:
        super().__init__(brief, details, hint)
        self.suggestions = tuple(suggestions)


class InvalidArguments(CommandRejected, SpecError):
    """The running QEMU takes no such arguments; ``path`` says where, as in ``arguments.file.driver``."""

    def __init__(self, brief: str, details: str | None = None, hint: str | None = None, *, path: str) -> None:
        super().__init__(brief, details, hint)
        self.path = path


class CommandBlocked(CommandRejected):
    """The command may be sent by those only who say that they mean it."""


class JobNotFound(QmpError, LookupError):
    """QEMU has no job of that id, and none has come to its end since the connection was made."""


class JobFailed(QmpError):
    """A job did not succeed; ``job`` is its id, ``error`` what QEMU says.

    ``cancelled`` is true where somebody called it off. A job that QEMU has only stopped, because of an I/O
    error, is ``stopped``: it is still there, to be resumed or cancelled.
    """

    def __init__(
        self,
        brief: str,
        details: str | None = None,
        hint: str | None = None,
        *,
        job: str,
        error: str,
        cancelled: bool = False,
        stopped: bool = False,
    ) -> None:
        super().__init__(brief, details, hint)
        self.job = job
        self.error = error
        self.cancelled = cancelled
        self.stopped = stopped


class ChaosError(QemuVMError):
    """Faults of chaos failed; ``failures`` are their errors, and ``seed`` repeats the run."""

    def __init__(
        self,
        brief: str,
        details: str | None = None,
        hint: str | None = None,
        *,
        seed: int,
        failures: Sequence[Exception],
    ) -> None:
        super().__init__(brief, details, hint)
        self.seed = seed
        self.failures = tuple(failures)


class CoherenceError(QemuVMError):
    """A test left something behind, or something is not what was recorded; ``findings`` are what.

    ``missing`` are the kinds that a test declared with ``qemuvm_expect`` and that did not appear, ``remains``
    says what of the findings could not be cleaned away.
    """

    def __init__(
        self,
        brief: str,
        details: str | None = None,
        hint: str | None = None,
        *,
        findings: Sequence[Any] = (),
        missing: Sequence[str] = (),
        remains: Sequence[str] = (),
    ) -> None:
        evidence = [details] if details else []
        evidence += [f"  {finding}" for finding in findings]
        evidence += [f"  not cleaned away: {what}" for what in remains]
        super().__init__(brief, "\n".join(evidence) or None, hint)
        self.findings = tuple(findings)
        self.missing = tuple(missing)
        self.remains = tuple(remains)


class QemuVMWarning(UserWarning):
    """Something that is not as it was asked for, and did not keep a test from going on."""


class NotSupportedInDryRun(QemuVMError):
    """Only a real machine could answer this, so dry-run does not pretend to.

    It skips a test that is marked ``needs="guest"`` or ``needs="real"``, and fails any other.
    """


class NeedsSimulator(QemuVMError):
    """Only a simulated machine can do this, and this session's are real."""


class PlanDiffers(QemuVMError):
    """A test's plan is not what its golden file says; ``details`` is the difference, line by line."""


def closest(word: str, known: Iterable[str]) -> list[str]:
    """Return the known words closest to a misspelt one, the closest first; at most three."""
    import difflib  # noqa: PLC0415  # 2 ms that only a misspelling should cost

    return difflib.get_close_matches(word, sorted(known), n=3, cutoff=0.5)


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a hint that names the known words closest to a misspelt one."""
    names = sorted(known)
    close = closest(word, names)
    if close:
        return f"did you mean {' or '.join(repr(name) for name in close)}?"
    return f"known: {', '.join(names)}"
