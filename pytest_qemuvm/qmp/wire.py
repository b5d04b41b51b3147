"""The one module that knows the qemu.qmp library: framing, greeting, negotiation and teardown are its work.

The library's own way to execute a command is not used: it costs two tasks and two queues per call, keeps
every event for ever, and renders each message for a debug log that nobody reads. What it documents for
subclasses to override (``_on_message`` and the two callbacks) suffices to do without any of that.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from qemu.qmp import ConnectError as LibraryConnectError
from qemu.qmp import Message, QMPClient, Runstate

from pytest_qemuvm.errors import ConnectError
from pytest_qemuvm.qmp.outbox import Outbox
from pytest_qemuvm.qmp.transcript import shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_qemuvm.qmp.outbox import Descriptors

_LOGGER = "qemuvm"
"""The library logs what it also raises; all of it reaches the caller as an exception, so its log is silent
unless somebody has set a level for this name below ``qemu.qmp.protocol``."""


_LINE_END = b"\n"
"""QEMU needs none; whoever else plays a monitor can read by lines."""


class Wire(QMPClient):
    """One QMP connection over a socket that is already connected. All but ``send`` is for one running loop.

    ``on_event`` gets each event, ``on_reply`` each other message and its bytes, in the order of arrival and
    before the next is read. An exception from either ends the connection and is its reason.
    The socket is closed when the connection ends.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        on_event: Callable[[Mapping[str, Any]], None],
        on_reply: Callable[[Mapping[str, Any], bytes], None],
    ) -> None:
        super().__init__(name=_LOGGER)
        if self.logger.level == logging.NOTSET:
            self.logger.setLevel(logging.CRITICAL + 1)
        self._sock = sock
        # The way out, beside asyncio's reading; see send().
        self._out = sock.dup()
        self._outbox = Outbox(self._out)
        self._sending = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_event = on_event
        self._on_reply = on_reply

    async def open(self) -> dict[str, Any]:
        """Await the greeting, negotiate, and return the greeting's body.

        Raises ConnectError where the peer hangs up or says something else. Must be followed by ``ended()``
        if it returns.
        """
        self._loop = asyncio.get_running_loop()
        try:
            await self.connect(self._sock)
        except LibraryConnectError as error:
            self._out.close()
            raise ConnectError("no QMP greeting", _describe(error.exc)) from error.exc
        except AssertionError:
            # The library insists that the connection still runs when connect() returns, but a peer may hang
            # up right behind its greeting. ended() is about to find out.
            if self.runstate is not Runstate.DISCONNECTING:
                raise
        except BaseException:
            self._out.close()
            raise
        greeting = self.greeting
        return (
            {"version": greeting.QMP.version, "capabilities": greeting.QMP.capabilities} if greeting else {}
        )

    @property
    def passes_descriptors(self) -> bool:
        """True where the socket can carry descriptors."""
        return self._out.family == socket.AF_UNIX

    def send(self, data: bytes, descriptors: Descriptors | None = None) -> None:
        """Send one encoded command, with its descriptors, from any thread, and never wait.

        Not through asyncio: that would wake the loop's thread twice per command, and writing to a dead peer
        would make it drop the socket with the peer's last words unread.
        """
        assert self._loop is not None
        with self._sending:
            try:
                self._outbox.send(data + _LINE_END, descriptors)
            finally:
                if self._outbox.unsent:
                    self._loop.call_soon_threadsafe(self._await_writable)

    def hang_up(self) -> None:
        """End the connection from our side: what the peer has sent is still read, then comes the end of file.

        Also right when the peer is dead but somebody else holds its end of the socket open.
        """
        with suppress(OSError):
            self._out.shutdown(socket.SHUT_RDWR)

    async def ended(self) -> Exception | None:
        """Wait until the connection has ended for whatever reason, and return the reason.

        Everything the peer sent has been delivered by then.
        """
        try:
            while self.runstate is Runstate.RUNNING:
                await self.runstate_changed()
        finally:
            self.hang_up()
            reason = await self._close()
        return reason

    async def _close(self) -> Exception | None:
        try:
            await self.disconnect()
        except Exception as error:  # noqa: BLE001  # whatever stopped the reader is the reason asked for
            return error
        finally:
            with self._sending:
                self._outbox.clear()
                asyncio.get_running_loop().remove_writer(self._out)
                self._out.close()
        return None

    def _go_on_sending(self) -> None:
        """Send the rest, now that the peer takes some; on the loop, as often as it does."""
        with self._sending:
            self._outbox.send()
            if not self._outbox.unsent:
                asyncio.get_running_loop().remove_writer(self._out)

    def _await_writable(self) -> None:
        with self._sending:
            if self._outbox.unsent:
                asyncio.get_running_loop().add_writer(self._out, self._go_on_sending)

    async def _on_message(self, msg: Message) -> None:
        self._route(msg)

    def _route(self, msg: Message) -> None:
        if "event" in msg:
            self._on_event(msg)
        else:
            self._on_reply(msg, bytes(msg))

    def _cb_inbound(self, msg: Message) -> Message:
        return msg

    def _cb_outbound(self, msg: Message) -> Message:
        return Message(bytes(msg) + _LINE_END, eager=False)


def _describe(error: BaseException) -> str:
    if isinstance(error, EOFError):
        return "the peer hung up"
    return shorten(f"{type(error).__name__}: {error}")
