"""The smallest program of the guest: it sets the clock and addresses, and feeds the random number generator.

A clone begins with the clock, the random numbers and the addresses of the machine that was saved. To set them
takes calls of the kernel that no shell can make, and a process that is only started then would take longer
than all the rest of the clone's start. So one waits from the boot on, and is saved with everything else.

It reads messages from its standard input, acts on them through descriptor 3, which is ``/dev/urandom``, and a
socket of its own, and answers each with a line: ``0``, or ``1`` where the kernel refused something. A message
is a time, entropy, and the number of requests for the socket that follow: an ioctl's number and its
``ifreq``.
"""

from __future__ import annotations

import struct

SEED_BYTES = 64
"""Bytes of fresh randomness in a message."""
_MESSAGE = struct.Struct(f"<qqii{SEED_BYTES}sQ")  # struct timespec; struct rand_pool_info; how many follow
_BASE = 0x400000
_HEADERS = struct.Struct("<16sHHIQQQIHHHHHHIIQQQQQQ")  # an ELF header and one program header

_LENGTH = struct.pack("<I", _MESSAGE.size)
_ROOM = bytes.fromhex("4881ec00010000")  # sub rsp, 256
_READ = bytes.fromhex("31c0 31ff 4889e6 ba") + _LENGTH + bytes.fromhex("0f05")  # read(0, rsp, message)
_COMPARE = b"\x3d" + _LENGTH
# What fails leaves its mark in ebx.
_SET_CLOCK = bytes.fromhex("b8e3000000 31ff 4889e6 0f05 89c3")  # clock_settime(CLOCK_REALTIME, rsp)
# That one is ioctl(3, RNDADDENTROPY, rsp + 16).
_ADD_ENTROPY = bytes.fromhex("b810000000 bf03000000 be03520840 488d542410 0f05 09c3")
_RESEED = bytes.fromhex("b810000000 bf03000000 be07520000 31d2 0f05 09c3")  # ioctl(3, RNDRESEEDCRNG)
# A socket for IPv4 datagrams; its number stays in r13d.
_SOCKET = bytes.fromhex("b829000000 bf02000000 be02000000 31d2 0f05 4189c5")
_ONE_REQUEST = bytes.fromhex(
    "31c0 31ff 488db42480000000 ba30000000 0f05"  # read(0, rsp + 128, 48)
    "b810000000 4489ef 488bb42480000000 488d942488000000 0f05 09c3"  # ioctl(r13d, [rsp + 128], rsp + 136)
    "49ffcc"  # r12--
)
_COUNT_AT = _MESSAGE.size - 8
# r12 = the count; while it is not 0: one request.
_REQUESTS = (
    bytes.fromhex("4c8b6424") + bytes((_COUNT_AT,))
    + bytes.fromhex("4d85e4 74") + bytes((len(_ONE_REQUEST) + 2,))
    + _ONE_REQUEST
    + b"\xeb" + struct.pack("b", -(len(_ONE_REQUEST) + 7))
)  # fmt: skip
_ACT = _SET_CLOCK + _ADD_ENTROPY + _RESEED + _REQUESTS
_ANSWER = bytes.fromhex(
    "31c0 85db 0f95c0 05300a0000 890424"  # [rsp] = ebx ? "1\n" : "0\n"
    "b801000000 bf01000000 4889e6 ba02000000 0f05"  # write(1, rsp, 2)
)
_EXIT = bytes.fromhex("b83c000000 31ff 0f05")


def program() -> bytes:
    """Return the program as an executable file for Linux on x86-64."""
    # A message that is cut short means that the other end is gone: jne to the exit.
    body = _ACT + _ANSWER
    leave = b"\x0f\x85" + struct.pack("<i", len(body) + 5)
    loop = _READ + _COMPARE + leave + body
    code = _SOCKET + _ROOM + loop + b"\xe9" + struct.pack("<i", -(len(loop) + 5)) + _EXIT
    start, size = _BASE + _HEADERS.size, _HEADERS.size + len(code)
    headers = _HEADERS.pack(
        b"\x7fELF\x02\x01\x01",  # 64 bits, little endian
        2, 62, 1, start, 64, 0, 0, 64, 56, 1, 0, 0, 0,  # an executable for x86-64 with one program header
        1, 5, 0, _BASE, _BASE, size, size, 0x1000,  # all of it is loaded, to be read and run
    )  # fmt: skip
    return headers + code


def message(nanoseconds: int, seed: bytes) -> bytes:
    """Return what sets the clock to a time since the epoch, and mixes in SEED_BYTES of randomness.

    No requests follow it. Whoever adds some begins with ``without_count``.
    """
    if len(seed) != SEED_BYTES:
        raise ValueError(f"{len(seed)} bytes of randomness instead of {SEED_BYTES}")
    return _MESSAGE.pack(*divmod(nanoseconds, 10**9), 8 * SEED_BYTES, SEED_BYTES, seed, 0)


def without_count(whole: bytes) -> bytes:
    """Return a message without the number of requests that follow it."""
    return whole[:_COUNT_AT]


def for_printf(data: bytes) -> bytes:
    """Write bytes as a format for the shell's ``printf``."""
    return b"".join(b"\\%03o" % byte for byte in data)
