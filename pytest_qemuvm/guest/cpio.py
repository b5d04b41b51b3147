"""Writing the archive that the kernel unpacks as its first root file system (cpio, "newc")."""

from __future__ import annotations

import posixpath
import stat
from dataclasses import dataclass, field


@dataclass(slots=True)
class Archive:
    """A cpio archive being put together; the same entries always give the same bytes.

    Paths are relative to the root, without a leading slash. Missing parent directories are added.
    """

    _chunks: list[bytes] = field(default_factory=list)
    _names: set[str] = field(default_factory=set)
    _inode: int = 0

    def directory(self, path: str, mode: int = 0o755) -> None:
        """Add a directory; adding one twice does nothing."""
        if path and path not in self._names:
            self._entry(path, stat.S_IFDIR | mode, b"", nlink=2)

    def file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Add a regular file."""
        self._entry(path, stat.S_IFREG | mode, data)

    def symlink(self, path: str, target: str) -> None:
        """Add a symbolic link."""
        self._entry(path, stat.S_IFLNK | 0o777, target.encode())

    def device(self, path: str, major: int, minor: int, mode: int = 0o600) -> None:
        """Add a character device."""
        self._entry(path, stat.S_IFCHR | mode, b"", rdev=(major, minor))

    def to_bytes(self) -> bytes:
        """Return the whole archive, padded to 512 bytes; more may still be added afterwards."""
        trailer = self._header("TRAILER!!!", 0, 0, inode=0)
        data = b"".join([*self._chunks, trailer])
        return data + bytes(-len(data) % 512)

    def _entry(
        self, path: str, mode: int, data: bytes, *, nlink: int = 1, rdev: tuple[int, int] = (0, 0)
    ) -> None:
        if (
            path in {"", ".."}
            or path.startswith(("/", "../"))
            or posixpath.normpath(path) != path
            or "\0" in path
        ):
            raise ValueError(f"not a plain relative path: {path!r}")
        if path in self._names:
            raise ValueError(f"{path!r} is in the archive already")
        self.directory(posixpath.dirname(path))
        self._names.add(path)
        self._inode += 1
        self._chunks.append(self._header(path, mode, len(data), inode=self._inode, nlink=nlink, rdev=rdev))
        self._chunks.append(data)
        self._chunks.append(bytes(-len(data) % 4))

    @staticmethod
    def _header(
        path: str, mode: int, size: int, *, inode: int, nlink: int = 1, rdev: tuple[int, int] = (0, 0)
    ) -> bytes:
        name = path.encode() + b"\0"
        # ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
        fields = (inode, mode, 0, 0, nlink, 0, size, 0, 0, rdev[0], rdev[1], len(name), 0)
        head = b"070701" + b"".join(b"%08X" % value for value in fields) + name
        return head + bytes(-len(head) % 4)
