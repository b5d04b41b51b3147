"""Commands and files by the agent of the built-in guest, over a pool of virtio-serial ports."""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from pytest_qemuvm.errors import ChannelError, GuestCommandError, GuestCommandTimeout, WaitTimeout
from pytest_qemuvm.guest import waker, wire
from pytest_qemuvm.guest.channel import ExecResult, Interrupt
from pytest_qemuvm.guest.port import Late, Port, PortState
from pytest_qemuvm.host.deadline import Deadline

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from pytest_qemuvm.spec.network import Link

PORTS = 4
"""How many ports a machine gives the agent: three for commands, the last to stop those that overrun."""
PORT_NAMES = tuple(f"org.qemuvm.agent.{index}" for index in range(PORTS))
"""The names of the virtio-serial ports, in the order in which the sockets are given."""

_KILL_SECONDS = 3.0
"""How long a killed command may take to be gone and reported."""
_TRANSFER_SECONDS = 10.0
"""How long sending the output of a command that ended in time may take beyond its deadline."""
_DEFAULT_DIRECTORY = b"/root"
_AS_IT_IS = "-"
"""What stands for a name that is not to be changed, and is none itself."""
_RENEW_SECONDS = 5.0
"""After how long a clone is asked again; it takes 0.1 s under emulation."""


@dataclass(frozen=True, slots=True)
class Address:
    """What a NIC is to be known by."""

    mac: str
    link: Link | None = None
    """Its network, which may give it an IP address. On user-mode networking it keeps the one that it has."""

    def words(self) -> str:
        """Return it as the agent takes it: address, and of its network address, mask, resolver and domain."""
        link = self.link
        if link is None or link.backend == "user":
            return self.mac
        return link.told(self.mac)


@dataclass(frozen=True, slots=True)
class Identity:
    """What a machine has that no other may have too."""

    hostname: str | None = None
    """None: hostname and machine-id stay what they are."""
    addresses: Mapping[str, Address] = field(default_factory=dict)
    """Addresses by the MAC addresses that they replace."""

    def words(self) -> list[bytes]:
        """Return the words of a request that gives it to a guest, with the time as it is now."""
        waking = waker.without_count(clock_message(0.0))
        pairs = (f"{old}={new.words()}".lower().encode() for old, new in self.addresses.items())
        names = (
            (self.hostname, secrets.token_hex(16)) if self.hostname is not None else (_AS_IT_IS, _AS_IT_IS)
        )
        return [*map(wire.encode, names), waker.for_printf(waking), *pairs]


def clock_message(ahead: float) -> bytes:
    """Return what sets the guest's clock that many seconds ahead of the host's, with new entropy."""
    return waker.message(time.time_ns() + round(ahead * 1e9), os.urandom(waker.SEED_BYTES))


class Hold:
    """All ports of a channel, while nobody else may use them."""

    def __init__(self, ports: Sequence[Port], renew: Callable[[Identity, Deadline], None]) -> None:
        self._ports = ports
        self._renew = renew

    @property
    def states(self) -> tuple[PortState, ...]:
        """What is agreed with the guest now, by port."""
        return tuple(port.state for port in self._ports)

    def return_to(self, states: Iterable[PortState]) -> None:
        """Go back to an earlier moment with the guest, which stands still."""
        for port, state in zip(self._ports, states, strict=True):
            port.return_to(state)

    def renew(self, identity: Identity, deadline: Deadline) -> None:
        """Give the guest, which runs again, the time as it is now, and new entropy.

        Raises WaitTimeout where it does not answer, ChannelError where it could not do it.
        """
        try:
            if self._ports[0].dirty:
                self._ports[0].settle(deadline, first=0.0, every=0.1)
            self._renew(identity, deadline)
        except Late:
            raise WaitTimeout(
                f"the guest did not answer within {deadline.seconds:g} s of being restored",
                waited_for="the guest's agent after a restore",
                seconds=deadline.seconds,
            ) from None


class AgentChannel:
    """The channel to the built-in guest; see Channel for what its calls promise.

    ``ports`` are the host's ends of the ports named in PORT_NAMES, at least one; with two or more the last is
    kept for stopping commands. Commands of several threads run side by side, one per port; further ones wait
    for a port within their own deadline.
    """

    def __init__(self, ports: Sequence[socket.socket], interrupt: Interrupt) -> None:
        if not ports:
            raise ValueError("the agent needs at least one port")
        made = [Port(sock, index, interrupt) for index, sock in enumerate(ports)]
        self._all = made
        self._control = made[-1] if len(made) > 1 else None
        self._control_lock = threading.Lock()
        self._free = made[:-1] if len(made) > 1 else list(made)
        self._changed = threading.Condition()
        self._first = made[0]
        self._closed = False

    @property
    def boot_id(self) -> str | None:
        """The id of the guest's present boot; None before it was first heard. A restart changes it."""
        return self._first.boot

    def wait_ready(self, deadline: Deadline) -> None:
        """Return once the guest's agent answers, as it does by itself at the end of a boot."""
        with self._port(deadline, "the guest's agent", only=self._first) as port:
            if port.boot is None or port.dirty:
                port.settle(deadline, first=1.0, every=1.0)

    def resync(self, deadline: Deadline) -> None:
        """Find the agent again after the machine was restored: its greeting was long ago.

        Nothing may be under way on this channel.
        """
        for port in self._all:
            port.dirty = True
        with self._port(deadline, "the guest's agent after a restore", only=self._first) as port:
            port.settle(deadline, first=0.0, every=0.1)

    def renew(self, boot: str, identity: Identity, deadline: Deadline) -> None:
        """Have the guest of a clone begin a life of its own; return when it has.

        ``boot`` is the boot that was saved. That the guest answers shows that it lives. Raises ChannelError
        where the guest could not do it.
        """
        with self._port(deadline, "the guest's agent in a clone", only=self._first) as port:
            port.adopt(boot)
            self._renew(port, identity, deadline)

    @contextlib.contextmanager
    def held(self, deadline: Deadline) -> Iterator[Hold]:
        """Wait until no command is under way, and let none begin meanwhile. Raises WaitTimeout.

        Then nothing is on its way between host and guest, unless a command had to be given up before.
        """
        with contextlib.ExitStack() as stack:
            for port in self._all:
                if port is not self._control:
                    self._take(deadline, "an end of the commands under way", port)
                    stack.callback(self._give_back, port)
            with self._control_lock:
                yield Hold(self._all, partial(self._renew, self._first))

    def _renew(self, port: Port, identity: Identity, deadline: Deadline) -> None:
        status, error = self._renewed(port, identity, deadline)
        if status != 0:
            raise ChannelError(
                "the guest of a clone could not be given an identity of its own",
                error.decode(errors="replace") or "its kernel refused the time, or new entropy",
            )

    @staticmethod
    def _renewed(port: Port, identity: Identity, deadline: Deadline) -> tuple[int, bytes]:
        """Ask until there is an answer, and return it; to be asked twice does a guest no harm."""
        while True:
            turn = deadline.sooner(_RENEW_SECONDS)
            try:
                reply = port.answer(port.ask("renew", identity.words(), None, turn), turn)
                return reply.status, port.body(reply, turn)[1]
            except Late:
                if deadline.expired:
                    raise
                port.settle(deadline, first=0.0, every=0.5)

    def wait_restarted(self, boot_id: str | None, deadline: Deadline) -> None:
        """Return once the agent of another boot than that one has been heard."""
        with self._port(deadline, "the guest's agent after a restart", only=self._first) as port:
            while port.boot == boot_id:
                # No sync is sent: a guest that is going down might still answer it.
                port.await_hello(deadline)

    def run(
        self,
        command: str,
        *,
        deadline: Deadline,
        input: bytes | None = None,  # noqa: A002  # the word that subprocess.run uses
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> ExecResult:
        """Run a command in the guest's shell; see Channel.run."""
        started = time.monotonic()
        words = [
            b"-" if input is None else b"%d" % len(input),
            _DEFAULT_DIRECTORY if cwd is None else wire.encode_path(cwd),
            wire.encode(command),
            *wire.environment(dict(env or {})),
        ]
        with self._port(deadline, command) as port:
            sequence = None
            try:
                sequence = port.ask("run", words, input, deadline)
                reply = port.answer(sequence, deadline)
                output, error = port.body(reply, _at_least(deadline, _TRANSFER_SECONDS))
            except Late:
                result = self._stopped(port, sequence, command, started)
                raise GuestCommandTimeout(
                    f"a command did not end within {deadline.seconds:g} s: {command}",
                    result.report(),
                    result=result,
                    waited_for=command,
                    seconds=deadline.seconds,
                ) from None
        return ExecResult(command, reply.status, output, error, time.monotonic() - started)

    def push(self, data: bytes, path: str, *, deadline: Deadline, mode: int = 0o644) -> None:
        """Write a file in the guest; see Channel.push."""
        words = [b"%d" % len(data), wire.encode_path(path), b"%o" % mode]
        self._transfer("push", words, path, data, deadline)

    def pull(self, path: str, *, deadline: Deadline) -> bytes:
        """Return the content of a file in the guest; see Channel.pull."""
        return self._transfer("pull", [wire.encode_path(path)], path, None, deadline)

    def close(self) -> None:
        """Close the host's ends. A call that is under way in another thread fails."""
        with self._changed:
            if not self._closed:
                self._closed = True
                for port in self._all:
                    port.close()
            self._changed.notify_all()

    def _transfer(
        self, op: str, words: list[bytes], path: str, payload: bytes | None, deadline: Deadline
    ) -> bytes:
        started = time.monotonic()
        with self._port(deadline, f"{op} {path}") as port:
            sequence = port.ask(op, words, payload, deadline)
            reply = port.answer(sequence, deadline)
            output, error = port.body(reply, deadline)
        if reply.status != 0:
            result = ExecResult(f"{op} {path}", reply.status, b"", error, time.monotonic() - started)
            raise GuestCommandError(f"cannot {op} {path}", result.stderr.strip() or None, result=result)
        return output

    @contextlib.contextmanager
    def _port(self, deadline: Deadline, waited_for: str, only: Port | None = None) -> Iterator[Port]:
        """Take a port, ready for a request, and give it back; a passed deadline becomes a WaitTimeout."""
        port = self._take(deadline, waited_for, only)
        try:
            port.catch_up()
            if only is None and (port.dirty or port.boot is None):
                self._clean(port, deadline)
            yield port
        except Late:
            raise WaitTimeout(
                f"no answer from the guest within {deadline.seconds:g} s",
                f"waited for: {waited_for}",
                waited_for=waited_for,
                seconds=deadline.seconds,
            ) from None
        finally:
            self._give_back(port)

    def _give_back(self, port: Port) -> None:
        with self._changed:
            self._free.append(port)
            self._changed.notify_all()

    def _take(self, deadline: Deadline, waited_for: str, only: Port | None) -> Port:
        with self._changed:
            while True:
                if self._closed:
                    raise ChannelError("the channel is closed")
                usable = [port for port in self._free if only is None or port is only]
                if usable:
                    # Ports that have answered before come first, and the first port before the others: at the
                    # end of a boot it is the only one that is served already.
                    port = min(usable, key=lambda port: (port.dirty, port.index))
                    self._free.remove(port)
                    return port
                if not self._changed.wait(deadline.remaining):
                    raise WaitTimeout(
                        f"no agent port became free within {deadline.seconds:g} s",
                        f"waited for: {waited_for}",
                        "other threads' commands hold all of them",
                        waited_for=waited_for,
                        seconds=deadline.seconds,
                    )

    def _clean(self, port: Port, deadline: Deadline) -> None:
        """Make a port usable: stop what its last user left running, then find the agent."""
        if port.boot is not None and port.sequence:
            self._stop(port, port.sequence)
        port.settle(deadline, first=0.0, every=0.5)

    def _stopped(self, port: Port, sequence: int | None, command: str, started: float) -> ExecResult:
        """Kill the command and return what it had written, or nothing if that cannot be had any more."""
        output, error, status = b"", b"", 128 + 9
        if sequence is not None and self._stop(port, sequence):
            grace = Deadline.after(_KILL_SECONDS)
            # Whatever goes wrong here, the time-out is the news; the port stays marked for a sync.
            with contextlib.suppress(Late, ChannelError):
                reply = port.answer(sequence, grace)
                output, error = port.body(reply, grace)
                status = reply.status
        return ExecResult(command, status, output, error, time.monotonic() - started)

    def _stop(self, port: Port, sequence: int) -> bool:
        """Have the control port kill a command's session. False if there is no way to."""
        if self._control is None:
            return False
        deadline = Deadline.after(_KILL_SECONDS)
        with self._control_lock:
            control = self._control
            try:
                control.catch_up()
                if control.dirty or control.boot is None:
                    control.settle(deadline, first=0.0, every=0.5)
                asked = control.ask("stop", [b"%d" % port.index, b"%d" % sequence], None, deadline)
                control.body(control.answer(asked, deadline), deadline)
            except (Late, ChannelError):
                return False
        return True


def _at_least(deadline: Deadline, seconds: float) -> Deadline:
    """Return the later of a deadline and one that many seconds from now."""
    return Deadline(max(deadline.at, time.monotonic() + seconds), deadline.seconds)
