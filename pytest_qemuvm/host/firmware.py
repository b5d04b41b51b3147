"""A firmware of 200 bytes that proves that an accelerator runs kernel code, and then ends QEMU.

It starts at the reset vector, walks the way of every 64-bit kernel (real mode, protected mode, paging, long
mode), runs a short loop in ring 0 and hands the upper half of a 64-bit register to QEMU's
``isa-debug-exit``. Nothing but a processor that did all of this makes QEMU exit with ``PROVEN_STATUS``.

Machine code, because a user's host has no assembler. Each line is one instruction of the listing beside it.
"""

from __future__ import annotations

SIZE = 64 * 1024
EXIT_PORT = 0xF4
PROVEN_STATUS = 0x2A << 1 | 1
"""What isa-debug-exit makes of the 0x2a that is written to it."""

_CODE = (
    # In 16-bit real mode. The image lies at the end of 4 GiB and, a second time, at 0xf0000.
    b"\xfa"  # 00: cli
    b"\x2e\x66\x0f\x01\x16\xc0\x00"  # 01: lgdtl %cs:0xc0
    b"\x0f\x20\xc0"  # 08: mov %cr0, %eax
    b"\x0c\x01"  # 0b: or $1, %al             protection on
    b"\x0f\x22\xc0"  # 0d: mov %eax, %cr0
    b"\x66\xea\x18\x00\x0f\x00\x08\x00"  # 10: ljmpl $0x08, $0xf0018
    # In 32-bit protected mode.
    b"\xb8\x10\x00\x00\x00"  # 18: mov $0x10, %eax
    b"\x8e\xd8"  # 1d: mov %eax, %ds
    b"\x8e\xc0"  # 1f: mov %eax, %es
    b"\x8e\xd0"  # 21: mov %eax, %ss
    b"\xfc"  # 23: cld
    b"\x31\xc0"  # 24: xor %eax, %eax
    b"\xbf\x00\x10\x00\x00"  # 26: mov $0x1000, %edi     page tables from 0x1000
    b"\xb9\x00\x0c\x00\x00"  # 2b: mov $0xc00, %ecx
    b"\xf3\xab"  # 30: rep stosl
    b"\xc7\x05\x00\x10\x00\x00\x03\x20\x00\x00"  # 32: movl $0x2003, 0x1000
    b"\xc7\x05\x00\x20\x00\x00\x03\x30\x00\x00"  # 3c: movl $0x3003, 0x2000
    b"\xc7\x05\x00\x30\x00\x00\x83\x00\x00\x00"  # 46: movl $0x83, 0x3000     one page of 2 MiB
    b"\xb8\x20\x00\x00\x00"  # 50: mov $0x20, %eax
    b"\x0f\x22\xe0"  # 55: mov %eax, %cr4           PAE
    b"\xb8\x00\x10\x00\x00"  # 58: mov $0x1000, %eax
    b"\x0f\x22\xd8"  # 5d: mov %eax, %cr3
    b"\xb9\x80\x00\x00\xc0"  # 60: mov $0xc0000080, %ecx
    b"\x0f\x32"  # 65: rdmsr
    b"\x0d\x00\x01\x00\x00"  # 67: or $0x100, %eax          EFER.LME
    b"\x0f\x30"  # 6c: wrmsr
    b"\x0f\x20\xc0"  # 6e: mov %cr0, %eax
    b"\x0d\x00\x00\x00\x80"  # 71: or $0x80000000, %eax     paging on
    b"\x0f\x22\xc0"  # 76: mov %eax, %cr0
    b"\xea\x80\x00\x0f\x00\x18\x00"  # 79: ljmp $0x18, $0xf0080
    # In 64-bit long mode.
    b"\xb9\xa0\x86\x01\x00"  # 80: mov $100000, %ecx
    b"\x48\xb8\x00\x00\x00\x00\x2a\x00\x00\x00"  # 85: mov $0x2a00000000, %rax
    b"\x48\xff\xc9"  # 8f: dec %rcx
    b"\x75\xfb"  # 92: jne 8f
    b"\x48\xc1\xe8\x20"  # 94: shr $32, %rax
    b"\xe7\xf4"  # 98: out %eax, $0xf4
    b"\xf4"  # 9a: hlt
)
_DESCRIPTORS = (
    b"\x00\x00\x00\x00\x00\x00\x00\x00"  # a0: null
    b"\xff\xff\x00\x00\x00\x9b\xcf\x00"  # a8: 0x08, 32-bit code
    b"\xff\xff\x00\x00\x00\x93\xcf\x00"  # b0: 0x10, data
    b"\xff\xff\x00\x00\x00\x9b\xaf\x00"  # b8: 0x18, 64-bit code
    b"\x1f\x00\xa0\x00\x0f\x00"  # c0: limit 31, base 0xf00a0
)
_RESET_VECTOR = b"\xe9\x0d\x00"  # fff0: jmp 0


def image() -> bytes:
    """Return the firmware, for ``-bios``."""
    rom = bytearray(SIZE)
    rom[: len(_CODE)] = _CODE
    rom[0xA0 : 0xA0 + len(_DESCRIPTORS)] = _DESCRIPTORS
    rom[0xFFF0 : 0xFFF0 + len(_RESET_VECTOR)] = _RESET_VECTOR
    return bytes(rom)
