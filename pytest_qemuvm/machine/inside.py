"""What a test does inside a VM: run commands, move files, wait for things to happen."""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_qemuvm.errors import GuestCommandError, HostFileError, NoChannel, SpecError
from pytest_qemuvm.guest import waits
from pytest_qemuvm.guest.wire import encode
from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.machine.lifecycle import Lifecycle

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping

    from pytest_qemuvm.guest.agent import AgentChannel
    from pytest_qemuvm.guest.channel import ExecResult

RUN_SECONDS = 60.0
"""How long a command in the guest may take unless told otherwise."""


class Inside(Lifecycle):
    """The guest's side of a VM."""

    def _channel(self) -> AgentChannel:
        """Return the channel to the guest; raises at once where there is none, or nobody at its end."""
        live = self._running()
        if live.channel is None:
            self.require_guest(f"guest in VM {self.name!r} that could be told anything")
            if live.plan.boot != "none":
                raise NoChannel(
                    f"there is no channel into the guest of VM {self.name!r}: it boots what is yours",
                    hint="talk to it over vm.console, its serial port; or use template='tiny'",
                )
            raise NoChannel(f"VM {self.name!r} has no guest to run anything in", hint="use template='tiny'")
        if live.interrupt.raised:
            raise live.interrupt.error()
        return live.channel

    def run(
        self,
        cmd: str | Sequence[str],
        *,
        check: bool = True,
        timeout: float = RUN_SECONDS,
        input: str | bytes | None = None,  # noqa: A002  # subprocess.run's name for it
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> ExecResult:
        """Run a command in the guest and return its result.

        ``cmd`` is a line for the guest's shell, or a list of words that are passed on as they are.
        ``input`` is its standard input (none: ``/dev/null``), ``env`` is added to its environment, ``cwd`` is
        where it runs. ``timeout`` is in seconds; a command that overruns it is killed in the guest
        (GuestCommandTimeout).
        With ``check`` a status other than 0 raises GuestCommandError. Several threads may run commands side
        by side.
        """
        line = cmd if isinstance(cmd, str) else shlex.join(_words(cmd))
        data = encode(input) if isinstance(input, str) else _bytes(input)
        result = self._channel().run(line, input=data, env=env, cwd=cwd, deadline=Deadline.after(timeout))
        if check and not result.ok:
            raise GuestCommandError(
                f"{line!r} ended with status {result.returncode} in VM {self.name!r}",
                f"stdout:\n{result.stdout}\nstderr:\n{result.stderr}".rstrip(),
                "pass check=False where a failure is expected",
                result=result,
            )
        return result

    def push(
        self,
        source: str | os.PathLike[str],
        target: str,
        *,
        mode: int | None = None,
        timeout: float = RUN_SECONDS,
    ) -> None:
        """Copy a file of the host into the guest; it is complete when it appears there.

        ``mode`` are permission bits; the source's own where it is left out. A relative ``target`` is below
        ``/root``. Raises HostFileError where the source cannot be read.
        """
        deadline = Deadline.after(timeout)
        bits = None if mode is None else _mode(mode)
        with _host_file(source, "read") as path:
            data = path.read_bytes()
            bits = path.stat().st_mode & 0o777 if bits is None else bits
        self._channel().push(data, target, mode=bits, deadline=deadline)

    def pull(self, source: str, target: str | os.PathLike[str], *, timeout: float = RUN_SECONDS) -> Path:
        """Copy a file of the guest to the host and return its path there.

        ``target`` may be a directory. On failure no half file is left, and what was there stays. Raises
        HostFileError where the target cannot be written.
        """
        data = self._channel().pull(source, deadline=Deadline.after(timeout))
        with _host_file(target, "written") as given:
            path = given / Path(source).name if given.is_dir() else given
            # Of this call alone: several threads may pull to one place.
            partial = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}")
            try:
                partial.write_bytes(data)
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
        return path

    def write_text(self, path: str, text: str, *, mode: int = 0o644) -> None:
        """Write a file in the guest (UTF-8)."""
        self._channel().push(encode(text), path, mode=_mode(mode), deadline=Deadline.after(RUN_SECONDS))

    def read_text(self, path: str) -> str:
        """Return the contents of a file in the guest: UTF-8, with bytes that are not kept as surrogates."""
        data = self._channel().pull(path, deadline=Deadline.after(RUN_SECONDS))
        return data.decode("utf-8", "surrogateescape")

    def wait_until_succeeds(self, cmd: str, timeout: float = RUN_SECONDS) -> ExecResult:
        """Run a command in the guest again and again until it succeeds; return the result that did."""
        given: object = cmd
        if isinstance(given, str) and not given.strip():
            raise SpecError("wait_until_succeeds() of nothing", hint="give it a line for the guest's shell")
        return waits.until_succeeds(self._channel(), cmd, Deadline.after(timeout))

    def wait_for_file(self, path: str, timeout: float = RUN_SECONDS) -> None:
        """Wait until a file exists in the guest."""
        waits.for_file(self._channel(), path, Deadline.after(timeout))

    def wait_for_port(self, port: int, timeout: float = RUN_SECONDS) -> None:
        """Wait until something listens on a TCP port of the guest."""
        waits.for_port(self._channel(), port, Deadline.after(timeout))

    def wait_for_unit(self, unit: str, timeout: float = RUN_SECONDS) -> None:
        """Wait until a systemd unit of the guest is active."""
        waits.for_unit(self._channel(), unit, Deadline.after(timeout))


def _words(command: object) -> list[str]:
    """Return the words of a command that is not a line for the shell. Raises SpecError."""
    if not isinstance(command, Sequence) or isinstance(command, bytes) or not command:
        raise SpecError(
            f"{command!r} is not a command", hint="a line for the guest's shell, or a list of words"
        )
    if not all(isinstance(word, str) for word in command):
        raise SpecError(f"the command {command!r} holds a word that is not a string")
    return list(command)


def _bytes(data: object) -> bytes | None:
    if data is None or isinstance(data, bytes):
        return data
    if isinstance(data, (bytearray, memoryview)):
        return bytes(data)
    raise SpecError(f"input={data!r} is neither a string nor bytes")


def _mode(mode: object) -> int:
    if not isinstance(mode, int) or not 0 <= mode <= 0o7777:
        raise SpecError(f"mode={mode!r} are no permission bits", hint="write mode=0o755")
    return mode


@contextmanager
def _host_file(given: str | os.PathLike[str], done: str) -> Iterator[Path]:
    """Give the path of a file on the host; what cannot be done with it (``read``, ``written``) is typed."""
    try:
        yield Path(given)
    except (OSError, ValueError, TypeError) as error:
        raise HostFileError(f"the host's file {given!r} cannot be {done}", str(error)) from error
