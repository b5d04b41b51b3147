"""Where things live on the host: the cache that outlives sessions and the session's own short directory."""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
from pathlib import Path

from pytest_qemuvm.errors import QemuVMError

CACHE_VARIABLE = "QEMUVM_CACHE"


def cache_dir() -> Path:
    """Return the user's cache: built guests, unpacked packages, what was proven of QEMU.

    ``QEMUVM_CACHE`` names another directory. The directory need not exist yet.
    """
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named).absolute()
    import platformdirs  # noqa: PLC0415  # only needed where the variable does not decide

    return Path(platformdirs.user_cache_dir("pytest-qemuvm"))


def runtime_root() -> Path:
    """Return the user's private directory for sessions, made if it is missing.

    It is short (``/run/user/1000/qemuvm``, else ``/tmp/qemuvm-1000``), because a unix socket's path is cut
    off at 107 bytes. Raises QemuVMError where somebody else could write to it.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and len(runtime) <= 40 and os.access(runtime, os.W_OK):
        root = Path(runtime) / "qemuvm"
    else:
        root = Path(tempfile.gettempdir()) / f"qemuvm-{os.getuid()}"
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    info = root.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid() or info.st_mode & 0o077:
        raise QemuVMError(
            f"{root} is not a directory that only you can use",
            f"owner {info.st_uid}, mode {stat.S_IMODE(info.st_mode):o}",
            f"remove {root}, or set XDG_RUNTIME_DIR to a private directory",
        )
    return root


def new_session_tag() -> str:
    """Return a short unique word that marks all processes and files of one session."""
    return f"qv-{secrets.token_hex(5)}"
