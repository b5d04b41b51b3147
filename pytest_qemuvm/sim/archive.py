"""What was recorded of a version of QEMU: named pieces of JSON, each compressed by itself.

A file is a line of JSON, which says where each piece begins, and the pieces behind it. Only what is asked for
is decompressed, against a dictionary that all pieces share: most are small and alike.
"""

from __future__ import annotations

import zlib

from pytest_qemuvm.sim.qmpjson import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DIRECTORY = __file__.rpartition("/")[0] + "/data"
NAME = "recorded.bin"
VERSIONS = ("7.2", "10.0")
"""The versions of which there are recordings, oldest first."""


class DamagedRecording(Exception):
    """There is no recording of a version, or it cannot be read."""


class Archive:
    """The recording of one version. Raises DamagedRecording."""

    def __init__(self, version: str, directory: str = DIRECTORY) -> None:
        self.version = version
        self.path = f"{directory}/{version}/{NAME}"
        try:
            with open(self.path, "rb") as file:
                line = file.readline()
                self._data = file.read()
            self._index: dict[str, list[int]] = loads(line.decode())
            self._dictionary = zlib.decompress(self._piece("dictionary"))
        except (OSError, ValueError, KeyError, zlib.error) as error:
            raise DamagedRecording(
                f"the recording of QEMU {version} cannot be read: {self.path}: {error}"
            ) from error
        except Exception as error:
            raise DamagedRecording(f"{self.path} is no recording of a QEMU: {error}") from error
        self._loaded: dict[str, Any] = {}

    def _piece(self, name: str) -> bytes:
        begin, length = self._index[name]
        return self._data[begin : begin + length]

    def __contains__(self, name: str) -> bool:
        return name in self._index

    def names(self, prefix: str) -> list[str]:
        """Return what stands behind ``prefix`` in the names that begin with it."""
        return [name[len(prefix) :] for name in self._index if name.startswith(prefix)]

    def raw(self, name: str) -> bytes:
        """Return a piece as it was recorded. Raises KeyError where there is none."""
        inflate = zlib.decompressobj(zdict=self._dictionary)
        try:
            return inflate.decompress(self._piece(name)) + inflate.flush()
        except zlib.error as error:
            raise DamagedRecording(f"{self.path}: {name!r} is damaged: {error}") from error

    def get(self, name: str) -> Any:
        """Return a piece; the same object each time, so that it must not be changed."""
        if name not in self._loaded:
            self._loaded[name] = loads(self.raw(name).decode())
        return self._loaded[name]


def write(path: str, pieces: dict[str, bytes]) -> None:
    """Write an archive; the same pieces make the same file."""
    dictionary = _dictionary(pieces)
    index, data = {}, b""
    packed = {"dictionary": zlib.compress(dictionary, 9)}
    for name, piece in sorted(pieces.items()):
        deflate = zlib.compressobj(9, zdict=dictionary)
        packed[name] = deflate.compress(piece) + deflate.flush()
    for name, piece in packed.items():
        index[name] = [len(data), len(piece)]
        data += piece
    from pytest_qemuvm.sim.qmpjson import dumps

    with open(path, "wb") as file:
        file.write(dumps(index).encode() + b"\n" + data)


def _dictionary(pieces: dict[str, bytes]) -> bytes:
    """Return up to 32 KiB of what is in many pieces: every n-th of those of usual size."""
    usual = [piece for _, piece in sorted(pieces.items()) if 500 < len(piece) < 8000]
    chosen = usual[:: max(1, len(usual) // 12)]
    return b"".join(chosen)[-32768:]
