"""Find the QEMU executable and make sure that it is one: a system emulator, able to start, not too old."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_qemuvm.errors import QemuNotFound, QemuUnusable
from pytest_qemuvm.host import probe_cache

if TYPE_CHECKING:
    from pytest_qemuvm.host.bounded import Outcome

OLDEST = (7, 2, 0)
"""The oldest supported version: the first with ``-netdev stream`` and ``dgram``."""

_START_SECONDS = 10.0
"""``--version`` takes 15 ms; a cold disk may take seconds."""

_BANNER = r"QEMU emulator version (\d+)\.(\d+)(?:\.(\d+))?.*"

_PARTING_WORDS = ("-run-with", "exit-with-parent=on")
"""Known to QEMU since 10.2, and to no one else's build before it was tried."""

_INSTALL_HINT = "run `qemuvm setup`, or name the binary with --qemu-binary or QEMUVM_BINARY"


class QemuBinary(NamedTuple):
    """A QEMU system emulator that was seen to start."""

    path: str
    """Absolute, as it was found: a symbolic link stays one."""
    version: tuple[int, int, int]
    version_text: str
    """The first line of its ``--version``, with the distribution's own suffix."""
    fingerprint: str
    """16 hex digits over its contents and its version: what was learnt of one such binary holds for all."""
    ends_with_parent: bool = False
    """Whether it can be told to end when the thread that started it does."""

    @property
    def parting_words(self) -> tuple[str, ...]:
        """The arguments that tell it so, if it can."""
        return _PARTING_WORDS if self.ends_with_parent else ()


def find_qemu(explicit: str | None, *, system: str = "x86_64") -> Path:
    """Return the absolute path of the QEMU to use.

    ``explicit`` is a path (anything with a slash) or a name on PATH. Without it: ``qemu-system-<system>`` on
    PATH, then where Red Hat's distributions keep theirs. Raises QemuNotFound, or QemuUnusable for a file
    that may not be executed.
    """
    if explicit is not None:
        return _named(explicit)
    looked_for = [f"qemu-system-{system}"]
    if system == os.uname().machine:
        # Built for the host's own architecture alone, and not on PATH.
        looked_for += ["/usr/libexec/qemu-kvm", "qemu-kvm"]
    for name in looked_for:
        found = shutil.which(name)
        if found:
            return Path(found).absolute()
    raise QemuNotFound(
        f"there is no QEMU for {system}",
        f"looked for: {', '.join(looked_for)}\nPATH: {os.environ.get('PATH', '(not set)')}",
        _INSTALL_HINT,
    )


def _named(explicit: str) -> Path:
    if "/" not in explicit:
        found = shutil.which(explicit)
        if found:
            return Path(found).absolute()
        raise QemuNotFound(
            f"there is no {explicit!r} on PATH",
            f"PATH: {os.environ.get('PATH', '(not set)')}",
            _INSTALL_HINT,
        )
    path = Path(explicit).expanduser().absolute()
    if not path.exists():
        raise QemuNotFound(f"there is no {path}", None, _INSTALL_HINT)
    if not path.is_file() or not os.access(path, os.X_OK):
        raise QemuUnusable(f"{path} is not an executable file", None, "name QEMU's executable itself")
    return path


def identify(path: Path, cache: Path) -> QemuBinary:
    """Return what that binary is, from the cache (0.1 ms) or by running ``--version`` and hashing it.

    Raises QemuNotFound if it has gone, and QemuUnusable, with the evidence, if it does not start, hangs, is
    no QEMU system emulator, or is older than 7.2. Only good answers are cached, and only those of real
    executables: a wrapper script may start another QEMU tomorrow.
    """
    try:
        key = _identity(path)
    except OSError as error:
        raise QemuNotFound(f"there is no {path}", str(error), _INSTALL_HINT) from error
    name = f"binary-{key['inode']:x}-{key['mtime_ns']:x}"
    known = _from_answer(path, probe_cache.load(cache, name, key))
    if known is not None:
        return known
    version, text = _ask_version(path)
    # The parent of a QEMU behind a script is the script, which says nothing of us.
    real = _is_elf(path)
    ends = real and _can_end_with_parent(path)
    found = QemuBinary(str(path), version, text, _fingerprint(path, text), ends)
    if real:
        answer = {
            "version": list(version),
            "text": text,
            "fingerprint": found.fingerprint,
            "ends_with_parent": found.ends_with_parent,
        }
        probe_cache.store(cache, name, key, answer)
    return found


def _identity(path: Path) -> dict[str, Any]:
    real = os.path.realpath(path)
    info = os.stat(real)  # noqa: PTH116  # a string is what we have, and this is the fast way
    return {"path": real, "inode": info.st_ino, "size": info.st_size, "mtime_ns": info.st_mtime_ns}


def _from_answer(path: Path, answer: dict[str, Any] | None) -> QemuBinary | None:
    match answer:
        case {
            "version": [int(major), int(minor), int(micro)],
            "text": str(text),
            "fingerprint": str(fingerprint),
            "ends_with_parent": bool(ends),
        }:
            return QemuBinary(str(path), (major, minor, micro), text, fingerprint, ends)
    return None


def _ask_version(path: Path) -> tuple[tuple[int, int, int], str]:
    from pytest_qemuvm.host.bounded import run_bounded  # noqa: PLC0415  # needed on a miss only

    try:
        outcome = run_bounded([str(path), "--version"], seconds=_START_SECONDS)
    except OSError as error:
        raise QemuUnusable(f"{path} cannot be started", str(error), _INSTALL_HINT) from error
    if outcome.status is None:
        raise QemuUnusable(
            f"{path} does not answer --version within {_START_SECONDS:.0f} s",
            outcome.evidence(),
            _INSTALL_HINT,
        )
    return parse_version(path, outcome)


def _can_end_with_parent(path: Path) -> bool:
    """Ask it by having it take the option and list its machine types, which it does instead of starting."""
    from pytest_qemuvm.host.bounded import run_bounded  # noqa: PLC0415  # as above

    argv = [str(path), *_PARTING_WORDS, "-machine", "help"]
    return run_bounded(argv, seconds=_START_SECONDS).ok


def parse_version(path: Path, outcome: Outcome) -> tuple[tuple[int, int, int], str]:
    """Read the answer to ``--version``; raises QemuUnusable where it is not that of a QEMU we can use."""
    text = outcome.stdout.strip().partition("\n")[0]
    banner = re.fullmatch(_BANNER, text)
    if not outcome.ok:
        raise QemuUnusable(f"{path} does not start", outcome.evidence(), _INSTALL_HINT)
    if banner is None:
        raise QemuUnusable(f"{path} is not a QEMU system emulator", outcome.evidence(), _INSTALL_HINT)
    version = (int(banner[1]), int(banner[2]), int(banner[3] or 0))
    if version < OLDEST:
        raise QemuUnusable(
            f"QEMU {'.'.join(map(str, version))} is too old: the oldest supported is 7.2",
            outcome.evidence(),
            "install a newer QEMU, or name another one with --qemu-binary",
        )
    return version, text


def _fingerprint(path: Path, version_text: str) -> str:
    import hashlib  # noqa: PLC0415  # 3 ms that only a miss should cost

    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(version_text.encode())
    return digest.hexdigest()[:16]


def _is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"
