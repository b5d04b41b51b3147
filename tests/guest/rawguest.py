"""The least that boots the built-in guest: QEMU with sockets for the agent, a console, a monitor."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from pytest_qemuvm.errors import QemuVMError
from pytest_qemuvm.guest.agent import PORT_NAMES, AgentChannel
from pytest_qemuvm.host.deadline import Deadline

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from pytest_qemuvm.guest.tiny import TinyGuest

BINARY = "qemu-system-x86_64"


class Died(QemuVMError):
    """QEMU is gone."""


class PidInterrupt:
    """Readable once the process has ended."""

    def __init__(self, pid: int) -> None:
        self._fd = os.pidfd_open(pid)

    def fileno(self) -> int:
        return self._fd

    def error(self) -> QemuVMError:
        return Died("QEMU has ended")

    def close(self) -> None:
        os.close(self._fd)


class Console:
    """The serial console, always drained."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._data = b""
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._drain, daemon=True)
        self._thread.start()

    def _drain(self) -> None:
        with suppress(OSError):
            while data := self._sock.recv(65536):
                with self._news:
                    self._data += data
                    self._news.notify_all()

    def send(self, text: str) -> None:
        self._sock.sendall(text.encode())

    @property
    def text(self) -> str:
        return self._data.decode(errors="replace")

    def wait_for(self, text: str, seconds: float) -> bool:
        with self._news:
            return self._news.wait_for(lambda: text in self.text, seconds)

    def join(self) -> None:
        self._thread.join()
        self._sock.close()


class Monitor:
    """Just enough QMP: one command at a time, events are kept."""

    def __init__(self, sock: socket.socket) -> None:
        self._file = sock.makefile("rw")
        self._sock = sock
        self.events: list[dict[str, object]] = []
        self._read()
        self.execute("qmp_capabilities")

    def _read(self) -> dict[str, object]:
        message: dict[str, object] = json.loads(self._file.readline())
        return message

    def execute(self, command: str, **arguments: object) -> object:
        json.dump({"execute": command, "arguments": arguments}, self._file)
        self._file.write("\n")
        self._file.flush()
        while True:
            message = self._read()
            if "event" in message:
                self.events.append(message)
                continue
            assert "error" not in message, message
            return message["return"]

    def wait_event(self, name: str, **data: object) -> None:
        while True:
            for event in self.events:
                if event["event"] == name and data.items() <= event.get("data", {}).items():  # type: ignore[attr-defined]
                    return
            self.events.append(self._read())

    def close(self) -> None:
        self._file.close()
        self._sock.close()


class RawGuest:
    """A running QEMU with its channel."""

    def __init__(self, process: subprocess.Popen[bytes], sockets: dict[str, socket.socket]) -> None:
        self.process = process
        self.interrupt = PidInterrupt(process.pid)
        self.sockets = sockets
        self.console = Console(sockets["console"])
        self.monitor = Monitor(sockets["qmp"])
        self.channel = AgentChannel([sockets[name] for name in PORT_NAMES], self.interrupt)
        self.ready_seconds = 0.0

    def run(self, command: str, seconds: float = 20.0, **more: object):
        return self.channel.run(command, deadline=Deadline.after(seconds), **more)  # type: ignore[arg-type]

    def out(self, command: str, seconds: float = 20.0) -> str:
        result = self.run(command, seconds)
        assert result.ok, result
        return result.stdout.strip()

    def ended(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self.interrupt.fileno(), select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.channel.close()
        self.monitor.close()
        self.console.join()
        self.interrupt.close()


@contextmanager
def boot(tiny: TinyGuest, log: Path, extra: Sequence[str] = (), *, wait: bool = True) -> Iterator[RawGuest]:
    ours: dict[str, socket.socket] = {}
    theirs: dict[str, socket.socket] = {}
    for name in ("console", "qmp", *PORT_NAMES):
        ours[name], theirs[name] = socket.socketpair()
    argv = [
        BINARY, "-M", "q35", "-accel", "tcg,tb-size=128", "-cpu", "max", "-smp", "1,maxcpus=2",
        "-m", "256M,slots=4,maxmem=2G", "-nodefaults", "-no-user-config", "-display", "none",
        "-kernel", tiny.boot.kernel, "-initrd", str(tiny.boot.initrd), "-append", tiny.boot.append,
        "-chardev", f"socket,id=console,fd={theirs['console'].fileno()}", "-serial", "chardev:console",
        "-chardev", f"socket,id=qmp,fd={theirs['qmp'].fileno()}", "-mon", "qmp,mode=control",
        "-device", "virtio-serial-pci,id=serial",
    ]  # fmt: skip
    for number, name in enumerate(PORT_NAMES):
        argv += ["-chardev", f"socket,id=agent{number},fd={theirs[name].fileno()}"]
        argv += ["-device", f"virtserialport,bus=serial.0,chardev=agent{number},nr={number + 1},name={name}"]
    for number in range(4):
        argv += ["-device", f"pcie-root-port,id=rp{number},chassis={number + 1}"]
    argv += extra
    started = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[sock.fileno() for sock in theirs.values()],
        )
    for sock in theirs.values():
        sock.close()
    guest = RawGuest(process, ours)
    try:
        if wait:
            guest.channel.wait_ready(Deadline.after(60))
            guest.ready_seconds = time.monotonic() - started
        yield guest
    finally:
        guest.close()
