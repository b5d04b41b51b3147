"""The guest's hands, where nobody uses them: the ACPI registers by which it lets a PCI device go.

Where there is no guest they are reached through QEMU's qtest protocol, a line and its answer
(``docs/devel/testing/qtest.rst``); where there is one that stands still, through the human monitor. They are
those of QEMU's ACPI PCI hot-plug (``docs/specs/acpi_pci_hotplug.rst``): select a bus, read which of its slots
are to be ejected, write them back. The base is that of the machine's chipset; measured on QEMU 7.2 and 10.0.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from pytest_qemuvm.errors import QemuVMError

if TYPE_CHECKING:
    import socket

    from pytest_qemuvm.qmp import Qmp

BASES = {"q35": 0xCC0, "pc": 0xAE00}
"""Where the registers are, by machine type."""
_DOWN, _EJECT, _SELECT = 0x04, 0x08, 0x10
_BUSES = 72
"""Root ports that a machine of ours can have, and the buses besides."""
_ANSWER_SECONDS = 10.0


class Hands(ABC):
    """Ejects what QEMU asks the guest to let go."""

    def __init__(self, machine: str) -> None:
        self._base = BASES[machine]
        self._lock = threading.Lock()

    def eject_pending(self) -> int:
        """Let go every device that QEMU has asked for; return on how many buses there was one."""
        ejected = 0
        with self._lock:
            for bus in range(_BUSES):
                self._write(self._base + _SELECT, bus)
                slots = self._read(self._base + _DOWN)
                if slots == 0:  # also where there is no bus of that number
                    continue
                self._write(self._base + _EJECT, slots)
                ejected += 1
        return ejected

    @abstractmethod
    def _write(self, port: int, value: int) -> None:
        """Write four bytes to a port of the machine."""

    @abstractmethod
    def _read(self, port: int) -> int:
        """Read four bytes from a port of the machine."""


class HeldHands(Hands):
    """Those of a guest that stands still, and will not know: it is about to be restored."""

    def __init__(self, qmp: Qmp, machine: str) -> None:
        super().__init__(machine)
        self._qmp = qmp

    def _write(self, port: int, value: int) -> None:
        self._say(f"o /w {port:#x} {value:#x}")

    def _read(self, port: int) -> int:
        answer = self._say(f"i /w {port:#x}")
        try:
            return int(answer.rpartition("=")[2], 16)
        except ValueError:
            raise QemuVMError("QEMU's human monitor reads no port of the machine", answer) from None

    def _say(self, line: str) -> str:
        arguments = {"command-line": line}
        return str(self._qmp.execute("human-monitor-command", arguments, allow_dangerous=True))


class PlayedGuest(Hands):
    """Those of a guest that is not there."""

    def __init__(self, sock: socket.socket, machine: str) -> None:
        super().__init__(machine)
        sock.settimeout(_ANSWER_SECONDS)
        self._lines = sock.makefile("rwb", buffering=0)

    def _write(self, port: int, value: int) -> None:
        self._ask(f"outl {port:#x} {value:#x}")

    def _read(self, port: int) -> int:
        return int(self._ask(f"inl {port:#x}"), 16)

    def _ask(self, line: str) -> str:
        try:
            self._lines.write(f"{line}\n".encode())
            answer = self._lines.readline().decode().split()
        except OSError as error:
            raise QemuVMError(f"QEMU's qtest port does not answer: {error}") from error
        if answer[:1] != ["OK"]:
            raise QemuVMError(f"QEMU's qtest port refused {line!r}", " ".join(answer) or "(it hung up)")
        return answer[1] if len(answer) > 1 else ""

    def close(self) -> None:
        """Close our end."""
        self._lines.close()
