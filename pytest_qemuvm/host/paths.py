"""Where things live on the host: the cache that outlives sessions and the session's own short directory."""

from __future__ import annotations

import os
from pathlib import Path

from pytest_qemuvm.errors import QemuVMError

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

    Raises QemuVMError where somebody else could write to it.
    """
    import contextlib  # noqa: PLC0415
    import stat  # noqa: PLC0415

    root = sessions_root()
    # Not exist_ok: the last session to end removes it, and may do so between that and its look at what it is.
    with contextlib.suppress(FileExistsError):
        root.mkdir(mode=0o700)
    info = root.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid() or info.st_mode & 0o077:
        raise QemuVMError(
            f"{root} is not a directory that only you can use",
            f"owner {info.st_uid}, mode {stat.S_IMODE(info.st_mode):o}",
            f"remove {root}, or set TMPDIR to a private directory",
        )
    return root


def new_session_tag() -> str:
    """Return a short unique word that marks all processes and files of one session."""
    return f"qv-{os.urandom(5).hex()}"
