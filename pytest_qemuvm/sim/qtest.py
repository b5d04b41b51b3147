"""The qtest port, as far as the ACPI registers go by which PCI devices are let go."""

from __future__ import annotations

from pytest_qemuvm.sim.chardev import FrontEnd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_qemuvm.sim.chardev import Chardev
    from pytest_qemuvm.sim.machine import Machine

BASES = {"q35": 0xCC0, "pc": 0xAE00}
"""Where the registers of ``docs/specs/acpi_pci_hotplug.rst`` are."""
_DOWN, _EJECT, _SELECT = 0x04, 0x08, 0x10
_LENGTHS = {"b": 1, "w": 2, "l": 4}


class Qtest(FrontEnd):
    """Reads lines and answers each."""

    def __init__(self, machine: Machine, chardev: Chardev) -> None:
        self._machine = machine
        self._chardev = chardev
        self._rest = b""
        self._selected = 0

    def received(self, data: bytes) -> None:  # noqa: D102
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._chardev.send(self._answer(line.decode(errors="replace").split()).encode() + b"\n")

    def _answer(self, words: list[str]) -> str:
        if not words:
            return "FAIL Unknown command ''"
        command = words[0]
        ports = command[:2] == "in" or command[:3] == "out"
        if not ports or command[-1] not in _LENGTHS or command[:-1] not in {"in", "out"}:
            return f"FAIL Unknown command '{command}' (the simulated QEMU models ports alone)"
        try:
            numbers = [int(word, 0) for word in words[1:]]
        except ValueError:
            numbers = []
        if len(numbers) != (1 if command[:-1] == "in" else 2):
            return "FAIL"
        offset = numbers[0] - BASES.get(self._machine.type, 1 << 32)
        if offset not in {_DOWN, _EJECT, _SELECT} or command[-1] != "l":
            return f"FAIL the simulated QEMU does not model the port {numbers[0]:#x}"
        if command == "outl":
            self._write(offset, numbers[1])
            return "OK"
        return f"OK {self._read(offset):#06x}"

    def _write(self, offset: int, value: int) -> None:
        if offset == _SELECT:
            self._selected = value
        elif offset == _EJECT:
            self._machine.hotplug.eject(self._selected, value)

    def _read(self, offset: int) -> int:
        if offset == _DOWN:
            return self._machine.hotplug.pending(self._selected)
        return self._selected if offset == _SELECT else 0
