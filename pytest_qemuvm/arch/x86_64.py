"""x86_64: q35, pc and microvm."""

from __future__ import annotations

from pytest_qemuvm.arch.model import Architecture, Machine

_FIRMWARE_SIZE = 64 * 1024
_RESET_VECTOR = 0xFFF0  # from the start of the last 64 KiB: QEMU maps the image to end at 4 GiB
_HALT = bytes(
    [
        0xFA,  # cli: nothing may wake it
        0xF4,  # hlt
        0xEB,
        0xFD,  # jmp to the hlt, should an NMI wake it all the same
    ]
)


def _halt_firmware() -> bytes:
    image = bytearray(_FIRMWARE_SIZE)
    image[_RESET_VECTOR : _RESET_VECTOR + len(_HALT)] = _HALT
    return bytes(image)


X86_64 = Architecture(
    name="x86_64",
    system="x86_64",
    default_machine="q35",
    halt_firmware=_halt_firmware(),
    machines=(
        Machine(
            name="q35",
            # Nothing here sits on the AHCI controller, and its driver takes half a second to find that out.
            options="q35,smm=off,vmport=off,sata=off",
            transport="pci",
            root_bus="pcie.0",
            hotplug="root-port",
            platform=("vmgenid", "pvpanic", "display"),
            memory_slots=True,
            keeps_time_emulated=True,
        ),
        Machine(
            name="pc",
            options="pc,smm=off,vmport=off",
            transport="pci",
            root_bus="pci.0",
            hotplug="root-bus",
            platform=("vmgenid", "pvpanic", "display"),
            memory_slots=True,
            keeps_time_emulated=True,
        ),
        Machine(
            name="microvm",
            # Without PIT, PIC and RTC the kernel has nothing to calibrate its clocks by under TCG.
            options="microvm,acpi=on,pit=on,pic=on,rtc=on,isa-serial=on,auto-kernel-cmdline=off",
            transport="mmio",
            root_bus=None,
            hotplug="none",
            platform=(),
            memory_slots=False,
            # It has neither HPET nor PM timer: on a busy host Linux finds no clock to trust, and hangs.
            keeps_time_emulated=False,
            # Its SeaBIOS says nothing and finds no disk on virtio-mmio (measured, QEMU 7.2).
            boots_disks=False,
        ),
    ),
)
