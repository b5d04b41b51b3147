"""The simulated QEMU as the host sees it: which versions it can stand in for, and how it is launched.

It is a program of its own (``sim/``), imported by nobody. What it is to be and what is to go wrong in it is
told by two variables; its own documentation says what they may hold.
"""

from __future__ import annotations

import os
import shlex
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_qemuvm.errors import SimulatorUnusable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_qemuvm.host.binary import QemuBinary

_HOME = Path(__file__).resolve().parent.parent / "sim"
PROGRAM = _HOME / "qemu_main.py"
RECORDS = _HOME / "data"
"""What was recorded of real QEMUs, a directory for each version."""
VERSION_VARIABLE = "QEMUVM_SIM_VERSION"
FAULTS_VARIABLE = "QEMUVM_SIM_FAULTS"
OLDEST = "7.2"
"""What is simulated where there is no QEMU to go by: what passes with the oldest passes with most."""

_SCRIPT = """#!/bin/sh
{variable}={version} exec {words} "$@"
"""
_REINSTALL = "the installation is damaged: install pytest-qemuvm again"


def words() -> tuple[str, ...]:
    """Return what is launched in QEMU's place, before QEMU's own arguments.

    Isolated from the environment and from what is installed, which it does not need: that starts faster.
    """
    return sys.executable, "-I", "-S", "-E", str(PROGRAM)


def recorded_versions(records: Path = RECORDS) -> tuple[str, ...]:
    """Return the versions that can be simulated, the oldest first. Raises SimulatorUnusable."""
    try:
        found = [entry.name for entry in records.iterdir() if entry.is_dir() and _position(entry.name)]
    except OSError as error:
        raise SimulatorUnusable("the simulator has no records of any QEMU", str(error), _REINSTALL) from error
    if not found or not PROGRAM.is_file():
        raise SimulatorUnusable(
            "the simulator is not complete", f"looked for: {records}, {PROGRAM}", _REINSTALL
        )
    return tuple(sorted(found, key=_position))


def nearest_version(binary: QemuBinary | None, versions: tuple[str, ...]) -> str:
    """Return the recorded version nearest to a binary's, counted in releases; without a binary the oldest."""
    if binary is None:
        return OLDEST if OLDEST in versions else versions[0]
    wanted = _position(f"{binary.version[0]}.{binary.version[1]}")
    return min(versions, key=lambda version: abs(_position(version) - wanted))


def _position(version: str) -> int:
    """Return which release it is, counted from 0.0: QEMU has had three a year; 0 for what is no version."""
    major, _, minor = version.partition(".")
    return int(major) * 3 + int(minor) if major.isdigit() and minor.isdigit() else 0


def fingerprint(version: str, records: Path = RECORDS) -> str:
    """Return a word for what is recorded of a version: another one when it was recorded anew."""
    told = sorted(
        f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}"
        for path in (records / version).iterdir()
    )
    return f"simulated-{version}-{zlib.crc32(chr(10).join(told).encode()):08x}"


def listing(version: str, cache: Path) -> str | None:
    """Return an executable that is the simulator of that version, for whoever asks it what devices it has.

    It is a script in the cache. None where that cannot be written: then hints do not name devices.
    """
    script = _SCRIPT.format(variable=VERSION_VARIABLE, version=version, words=shlex.join(words()))
    path = cache / f"simulated-{version}-{zlib.crc32(script.encode()):08x}"
    try:
        if not path.exists():
            cache.mkdir(parents=True, exist_ok=True)
            fresh = path.with_name(f"{path.name}.{os.getpid()}")
            fresh.write_text(script, encoding="utf-8")
            fresh.chmod(0o755)
            fresh.replace(path)
    except OSError:
        return None
    return str(path)


def environment(version: str, faults: str) -> Mapping[str, str]:
    """Return the variables that tell a simulator what it is; ``faults`` is JSON, or nothing."""
    return {VERSION_VARIABLE: version, FAULTS_VARIABLE: faults}
