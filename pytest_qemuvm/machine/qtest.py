"""The guest's hands, where there is no guest: the ACPI registers by which it lets a PCI device go.

QEMU's qtest protocol is a line and its answer (``docs/devel/testing/qtest.rst``). The registers are those of
QEMU's ACPI PCI hot-plug (``docs/specs/acpi_pci_hotplug.rst``): select a bus, read which of its slots are to
be ejected, write them back. The base is that of the machine's chipset; measured on QEMU 7.2 and 10.0.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from pytest_qemuvm.errors import QemuVMError

if TYPE_CHECKING:
    import socket

BASES = {"q35": 0xCC0, "pc": 0xAE00}
"""Where the registers are, by machine type."""
_DOWN, _EJECT, _SELECT = 0x04, 0x08, 0x10
_BUSES = 72
"""Root ports that a machine of ours can have, and the buses besides."""
_ANSWER_SECONDS = 10.0


class PlayedGuest:
    """Ejects what QEMU asks the guest to let go."""

    def __init__(self, sock: socket.socket, machine: str) -> None:
        self._base = BASES[machine]
        sock.settimeout(_ANSWER_SECONDS)
        self._lines = sock.makefile("rwb", buffering=0)
        self._lock = threading.Lock()

    def eject_pending(self) -> int:
        """Let go every device that QEMU has asked for; return on how many buses there was one."""
        ejected = 0
        with self._lock:
            for bus in range(_BUSES):
                self._ask(f"outl {self._base + _SELECT:#x} {bus:#x}")
                slots = int(self._ask(f"inl {self._base + _DOWN:#x}"), 16)
                if slots == 0:  # also where there is no bus of that number
                    continue
                self._ask(f"outl {self._base + _EJECT:#x} {slots:#x}")
                ejected += 1
        return ejected

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
