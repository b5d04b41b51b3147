"""Look at everything that real mode needs on this host, one row each, without stopping at what is missing."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_qemuvm.cli.guest_parts import guest_rows
from pytest_qemuvm.cli.row import SETUP, Row, guarded
from pytest_qemuvm.host import accel
from pytest_qemuvm.host.binary import QemuBinary, find_qemu, identify
from pytest_qemuvm.host.paths import cache_dir, runtime_root

if TYPE_CHECKING:
    from pytest_qemuvm.spec.settings import Settings

_MIB = 1024 * 1024
_LOW_MEMORY = 512 * _MIB
"""Four machines of the built-in guest, or a few dozen clones."""


@dataclass(frozen=True, slots=True)
class Survey:
    """All rows, and of what is missing what ``setup`` can mend."""

    rows: tuple[Row, ...]

    @property
    def ready(self) -> bool:
        """True if real mode can run the built-in guest."""
        return all(row.status != "missing" for row in self.rows)

    def lacks(self, name: str) -> bool:
        """Tell whether the row of that name is missing or less than it should be."""
        return any(row.name == name and row.status != "ok" for row in self.rows)


def survey(settings: Settings, *, fresh: bool = False) -> Survey:
    """Look at this host; ``fresh`` measures the accelerators again whatever the cache says."""
    cache = cache_dir()
    binary, binary_row = _qemu(settings.binary, cache)
    rows = [
        Row("python", "ok", f"{platform.python_version()} ({sys.executable})"),
        _pytest(),
        binary_row,
        _qemu_img(),
        _boot_roms(binary),
        _accelerator(binary, settings.accel, cache, fresh=fresh),
        _kvm(binary, cache),
        *guest_rows(settings.kernel, cache),
        guarded("runtime directory", lambda: str(runtime_root())),
        _cache(cache),
        _machine(),
        _shared_memory(),
    ]
    return Survey(tuple(rows))


def _pytest() -> Row:
    try:
        version = metadata.version("pytest")
    except metadata.PackageNotFoundError:
        return Row("pytest", "missing", "not installed", "pip install pytest")
    return Row("pytest", "ok", version)


def _qemu(explicit: str | None, cache: Path) -> tuple[QemuBinary | None, Row]:
    found: list[QemuBinary] = []

    def look() -> str:
        found.append(identify(find_qemu(explicit), cache))
        return f"{'.'.join(map(str, found[0].version))} ({found[0].path})"

    row = guarded("qemu", look)
    return (found[0] if found else None), row


def _qemu_img() -> Row:
    path = shutil.which("qemu-img")
    if path:
        return Row("qemu-img", "ok", path)
    return Row("qemu-img", "warn", "not found: only raw and empty qcow2 disks", SETUP)


def _boot_roms(binary: QemuBinary | None) -> Row:
    from pytest_qemuvm.devices.nic import BOOT_ROMS  # noqa: PLC0415  # no other command needs it
    from pytest_qemuvm.host.boot_roms import REMEDY, data_directories, missing_roms  # noqa: PLC0415  # as above

    if binary is None:
        return Row("boot ROMs", "warn", "needs QEMU", SETUP)
    try:
        missing = missing_roms(BOOT_ROMS.values(), data_directories(binary.path))
    except OSError as error:
        return Row("boot ROMs", "warn", str(error))
    if missing:
        return Row("boot ROMs", "warn", f"no {', no '.join(missing)}: no VM boots over such a NIC", REMEDY)
    return Row("boot ROMs", "ok", ", ".join(BOOT_ROMS.values()))


def _accelerator(binary: QemuBinary | None, wanted: accel.Wanted, cache: Path, *, fresh: bool) -> Row:
    if binary is None:
        return Row("accelerator", "missing", "needs QEMU", SETUP)

    def look() -> str:
        found = accel.prove(binary, wanted, cache, fresh=fresh)
        return f"{found.name}, -cpu {found.cpu_model} ({found.proof})"

    return guarded("accelerator", look)


def _kvm(binary: QemuBinary | None, cache: Path) -> Row:
    """Say what KVM is worth here, whatever accelerator was asked for."""
    from pytest_qemuvm.host.kvm import refusal  # noqa: PLC0415  # no other command needs it

    refused = refusal(accel.DEVICE)
    if refused is not None:
        return Row(accel.DEVICE, "warn", refused.reason, refused.hint)
    if binary is None:
        return Row(accel.DEVICE, "ok", "opens; what it is worth takes QEMU to find out")
    trial = accel.try_kvm(binary, cache)
    if trial.proven:
        return Row(accel.DEVICE, "ok", f"opens and is proven, -cpu {trial.cpu_model}")
    return Row(accel.DEVICE, "warn", f"opens, and is of no use: {trial.reason}", trial.hint)


def _cache(cache: Path) -> Row:
    name = "cache directory"
    nearest = cache
    while not os.path.exists(nearest):  # noqa: PTH110  # Path.exists raises where we may not even look
        nearest = nearest.parent
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        return Row(name, "missing", f"{cache} cannot be written", "set QEMUVM_CACHE to another directory")
    free = shutil.disk_usage(nearest).free
    value = f"{cache} ({_size(cache) // _MIB} MiB used, {free // _MIB} MiB free)"
    if free < 1024 * _MIB:
        return Row(name, "warn", value, "a guest and its templates take about 700 MiB: free some space")
    return Row(name, "ok", value)


def _size(directory: Path) -> int:
    """Return what a tree takes on the disk, in bytes; sparse files count for what they hold."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                total += (Path(folder) / name).lstat().st_blocks * 512
            except OSError:
                continue  # removed meanwhile by another session
    return total


def _machine() -> Row:
    import psutil  # noqa: PLC0415  # as above

    cpus = len(os.sched_getaffinity(0))
    available = psutil.virtual_memory().available
    value = f"{cpus} processors, {available // _MIB} MiB of memory available"
    if available < _LOW_MEMORY:
        return Row("host", "warn", value, "run fewer machines at a time, or smaller ones")
    return Row("host", "ok", value)


def _shared_memory() -> Row:
    try:
        free = shutil.disk_usage("/dev/shm").free  # noqa: S108  # asked about, not written to
    except OSError as error:
        return Row("shared memory", "warn", str(error))
    return Row("shared memory", "ok", f"{free // _MIB} MiB free in /dev/shm")
