"""Where things live on the host: the cache that outlives sessions and the session's own short directory."""

from __future__ import annotations

import os
from pathlib import Path

from pytest_qemuvm.errors import UnsafeDirectory

CACHE_VARIABLE = "QEMUVM_CACHE"
LONGEST_TEMPORARY = 30
"""Characters of TMPDIR that leave room for tag, VM and file in a socket's path."""


def cache_dir() -> Path:
    """Return the user's cache: built guests, unpacked packages, what was proven of QEMU.

    ``QEMUVM_CACHE`` names another directory; else it lies where the XDG base directory specification puts
    it. The directory need not exist yet. Every pytest run asks for this, so it is two look-ups and not a
    library that takes 2 ms to import.
    """
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named).absolute()
    base = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(base) if base.startswith("/") else Path.home() / ".cache"
    return root / "pytest-qemuvm"


def sessions_root() -> Path:
    """Return the user's directory for all sessions, which need not exist yet: ``/tmp/qemuvm-1000``.

    It lies in ``TMPDIR`` unless that is long: a unix socket's path is cut off at 107 bytes.
    """
    import tempfile  # noqa: PLC0415  # 1 ms that only a VM should cost

    temporary = tempfile.gettempdir()
    if len(temporary) > LONGEST_TEMPORARY:
        temporary = "/tmp"  # noqa: S108  # the directory below it is checked to be ours alone
    return Path(temporary) / f"qemuvm-{os.getuid()}"


def runtime_root() -> Path:
    """Return the user's directory for all sessions, made if it is missing.

    Raises UnsafeDirectory where somebody else could write to it.
    """
    import contextlib  # noqa: PLC0415

    root = sessions_root()
    # Not exist_ok: the last session to end removes it, and may do so between that and its look at what it is.
    with contextlib.suppress(FileExistsError):
        root.mkdir(mode=0o700)
    check_private(root)
    return root


def check_private(directory: Path) -> None:
    """Raise UnsafeDirectory unless only this user can use the directory; OSError if it is missing."""
    import stat  # noqa: PLC0415

    info = directory.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid() or info.st_mode & 0o077:
        raise UnsafeDirectory(
            f"{directory} is not a directory that only you can use",
            f"owner {info.st_uid}, mode {stat.S_IMODE(info.st_mode):o}",
            f"remove {directory}, or set TMPDIR to a private directory",
            path=directory,
        )


def file_identity(path: Path) -> list[object]:
    """Return, for the key of a cache, what tells a file from itself after any change; it is not read."""
    info = path.stat()
    return [str(path.absolute()), info.st_size, info.st_mtime_ns, info.st_ino]


def new_session_tag() -> str:
    """Return a short unique word that marks all processes and files of one session."""
    return f"qv-{os.urandom(5).hex()}"
