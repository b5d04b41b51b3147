"""A boot sector made by hand: it writes a line to the serial port and then echoes what it reads there."""

LINE = "booted from the image"

_CODE = (
    # At 0x7c00, in real mode; the firmware has set the port up.
    b"\xfa"  # 00: cli
    b"\x31\xc0"  # 01: xor %ax, %ax
    b"\x8e\xd8"  # 03: mov %ax, %ds
    b"\xfc"  # 05: cld
    b"\xbe\x33\x7c"  # 06: mov $0x7c33, %si      the line
    b"\xac"  # 09: lodsb
    b"\x84\xc0"  # 0a: test %al, %al
    b"\x74\x05"  # 0c: jz 13
    b"\xe8\x12\x00"  # 0e: call 23
    b"\xeb\xf6"  # 11: jmp 09
    b"\xba\xfd\x03"  # 13: mov $0x3fd, %dx       line status
    b"\xec"  # 16: in %dx, %al
    b"\xa8\x01"  # 17: test $1, %al         something to read?
    b"\x74\xfb"  # 19: jz 16
    b"\xb2\xf8"  # 1b: mov $0xf8, %dl
    b"\xec"  # 1d: in %dx, %al
    b"\xe8\x02\x00"  # 1e: call 23
    b"\xeb\xf0"  # 21: jmp 13
    b"\x88\xc4"  # 23: mov %al, %ah
    b"\xba\xfd\x03"  # 25: mov $0x3fd, %dx
    b"\xec"  # 28: in %dx, %al
    b"\xa8\x20"  # 29: test $0x20, %al      room to write?
    b"\x74\xfb"  # 2b: jz 28
    b"\xb2\xf8"  # 2d: mov $0xf8, %dl
    b"\x88\xe0"  # 2f: mov %ah, %al
    b"\xee"  # 31: out %al, %dx
    b"\xc3"  # 32: ret
)


def boot_sector() -> bytes:
    """Return the 512 bytes that a PC's firmware boots."""
    return (_CODE + LINE.encode() + b"\r\n\0").ljust(510, b"\0") + b"\x55\xaa"
