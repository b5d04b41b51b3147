"""Unpacking what kernels and modules are compressed with.

The standard library knows gzip, bzip2, xz and the older lzma. For zstd (Ubuntu, Fedora, Arch) and lz4
(Debian's cloud kernel) the programs of these names are used where they are installed.
"""

from __future__ import annotations

import bz2
import lzma
import shutil
import subprocess
import zlib
from typing import TYPE_CHECKING

from pytest_qemuvm.errors import CapabilityError

if TYPE_CHECKING:
    from collections.abc import Callable

ZSTD = b"\x28\xb5\x2f\xfd"
LZ4_LEGACY = b"\x02\x21\x4c\x18"
LZ4 = b"\x04\x22\x4d\x18"


class CannotDecompress(CapabilityError):
    """The format is unknown, the data are damaged, or the program that could unpack them is missing."""


def _gunzip(data: bytes) -> bytes:
    # zlib rather than gzip: a kernel's payload may be followed by four bytes of its own.
    return zlib.decompressobj(wbits=31).decompress(data)


def _unbz2(data: bytes) -> bytes:
    return bz2.BZ2Decompressor().decompress(data)


def _unxz(data: bytes) -> bytes:
    return lzma.LZMADecompressor().decompress(data)


def _program(name: str) -> Callable[[bytes], bytes]:
    def run(data: bytes) -> bytes:
        path = shutil.which(name)
        if path is None:
            raise CannotDecompress(
                f"there is no {name} program to unpack this with", hint=f"install the package {name}"
            )
        # What follows the stream makes these programs complain after they have written all of it, so
        # only an empty result is a failure; callers check what they got.
        done = subprocess.run([path, "-dcq"], input=data, capture_output=True, check=False)
        if not done.stdout:
            raise CannotDecompress(
                f"{name} could not unpack the data", done.stderr.decode(errors="replace").strip()
            )
        return done.stdout

    return run


_FORMATS: tuple[tuple[bytes, Callable[[bytes], bytes]], ...] = (
    (b"\x1f\x8b", _gunzip),
    (b"\xfd7zXZ\0", _unxz),
    (b"BZh", _unbz2),
    (b"\x5d\0\0", _unxz),
    (ZSTD, _program("zstd")),
    (LZ4_LEGACY, _program("lz4")),
    (LZ4, _program("lz4")),
)


def decompress(data: bytes) -> bytes:
    """Return the data unpacked, going by their first bytes.

    Raises CannotDecompress for an unknown or damaged format and for a missing program.
    """
    for magic, unpack in _FORMATS:
        if data.startswith(magic):
            try:
                return unpack(data)
            except (zlib.error, lzma.LZMAError, OSError, EOFError) as error:
                raise CannotDecompress("the compressed data are damaged", str(error)) from error
    raise CannotDecompress("unknown compression", f"first bytes: {data[:8].hex(' ')}")
