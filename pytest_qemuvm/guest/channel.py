"""What every way into a guest offers, and what a command gives back. Light to import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_qemuvm.errors import QemuVMError
    from pytest_qemuvm.host.deadline import Deadline


@dataclass(frozen=True, slots=True, repr=False)
class ExecResult:
    """What a command in the guest did."""

    command: str
    """The command as it was given to the guest's shell."""
    returncode: int
    """Its exit status; 128 plus the signal's number if a signal ended it."""
    stdout_bytes: bytes
    """What it wrote to standard output, as it is."""
    stderr_bytes: bytes
    """What it wrote to standard error, as it is."""
    seconds: float
    """How long it took, seen from the host, transfer included."""

    @property
    def ok(self) -> bool:
        """True if the exit status is 0."""
        return self.returncode == 0

    @property
    def stdout(self) -> str:
        """Standard output as text: UTF-8, with bytes that are not kept as surrogates."""
        return self.stdout_bytes.decode("utf-8", "surrogateescape")

    @property
    def stderr(self) -> str:
        """Standard error as text: UTF-8, with bytes that are not kept as surrogates."""
        return self.stderr_bytes.decode("utf-8", "surrogateescape")

    def __repr__(self) -> str:
        return (
            f"ExecResult(ok={self.ok}, returncode={self.returncode}, command={_short(self.command)}, "
            f"stdout={_short(self.stdout_bytes)}, stderr={_short(self.stderr_bytes)}, "
            f"seconds={self.seconds:.3f})"
        )

    def report(self) -> str:
        """Return status and the ends of both outputs, for the details of an error."""
        lines = [f"exit status: {self.returncode} after {self.seconds:.2f} s"]
        for name, data in (("stdout", self.stdout_bytes), ("stderr", self.stderr_bytes)):
            text = data[-2000:].decode("utf-8", "replace").rstrip()
            cut = " (its end)" if len(data) > 2000 else ""
            lines.append(f"{name}{cut}:\n{text}" if text else f"{name}: empty")
        return "\n".join(lines)


def _short(data: str | bytes) -> str:
    """Return the repr of at most the first 120 characters; decoding 100 MB for a repr helps nobody."""
    if len(data) <= 120:
        return repr(data.decode("utf-8", "surrogateescape") if isinstance(data, bytes) else data)
    return f"{_short(data[:120])}... ({len(data)} in all)"


class Channel(Protocol):
    """A way into a guest. Every call is synchronous and ends by its deadline or with QEMU.

    Safe to use from several threads at once.
    """

    def wait_ready(self, deadline: Deadline) -> None:
        """Return once the guest takes commands. Raises WaitTimeout."""

    def run(
        self,
        command: str,
        *,
        deadline: Deadline,
        input: bytes | None = None,  # noqa: A002  # the word that subprocess.run uses
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> ExecResult:
        """Run a command in the guest's shell and return what it did, whatever its status.

        ``input`` is its standard input (none: ``/dev/null``), ``env`` is added to its environment, ``cwd`` is
        where it runs. Raises GuestCommandTimeout with what it had written when it overran and was killed,
        ChannelError when the guest restarted or the channel broke.
        """
        ...

    def push(self, data: bytes, path: str, *, deadline: Deadline, mode: int = 0o644) -> None:
        """Write a file in the guest, whole or not at all. Raises GuestCommandError if it cannot be."""

    def pull(self, path: str, *, deadline: Deadline) -> bytes:
        """Return the content of a file in the guest. Raises GuestCommandError if it cannot be read."""
        ...

    def close(self) -> None:
        """Give up the channel's resources on the host. Calling it twice does nothing."""


class Interrupt(Protocol):
    """The news that waiting has become pointless: QEMU died, the guest panicked or shut down."""

    def fileno(self) -> int:
        """Return a descriptor that becomes, and stays, readable when there is such news."""
        ...

    def error(self) -> QemuVMError:
        """Return the error that says what happened; called only once the descriptor is readable."""
        ...
