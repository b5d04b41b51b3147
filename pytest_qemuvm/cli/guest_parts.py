"""Look at what the built-in guest is made from: a kernel, busybox, and the programs that unpack a kernel."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_qemuvm.cli.row import SETUP, Row, guarded
from pytest_qemuvm.guest.decompress import LZ4, LZ4_LEGACY, ZSTD
from pytest_qemuvm.guest.kernel import find_busybox, find_kernel
from pytest_qemuvm.guest.vmlinux import is_bzimage, payload

if TYPE_CHECKING:
    from pytest_qemuvm.guest.kernel import KernelSource

UNPACKERS = ("zstd", "lz4")
"""Programs, and packages of the same names, for what Python's own library cannot unpack."""

_MAGIC = {ZSTD: "zstd", LZ4: "lz4", LZ4_LEGACY: "lz4"}


def guest_rows(kernel: str | None, cache: Path) -> list[Row]:
    """Return a row each for kernel and busybox, and for every unpacker that this kernel needs."""
    found: list[KernelSource] = []

    def look() -> str:
        source = find_kernel(Path(kernel) if kernel else None, cache)
        found.append(source)
        return f"{source.release}, {source.origin} ({source.vmlinuz})"

    rows = [guarded("kernel", look, SETUP)]
    rows.append(guarded("busybox", lambda: str(find_busybox(None, cache)), SETUP))
    for source in found:
        if source.modules_dir is None:
            rows[0] = Row("kernel", "warn", f"{rows[0].value}, without modules: only what is built in works")
        rows += _unpackers(source)
    return rows


def _unpackers(source: KernelSource) -> list[Row]:
    rows = []
    for program in UNPACKERS:
        for_modules, for_kernel = _modules_need(source, program), _kernel_needs(source, program)
        if not for_modules and not for_kernel:
            continue
        path = shutil.which(program)
        if path:
            rows.append(Row(program, "ok", path))
        elif for_modules:
            rows.append(Row(program, "missing", "needed to unpack this kernel's modules", SETUP))
        else:
            rows.append(Row(program, "warn", "without it this kernel boots packed, a second slower", SETUP))
    return rows


def _modules_need(source: KernelSource, program: str) -> bool:
    suffix = {"zstd": "*.ko.zst", "lz4": "*.ko.lz4"}[program]
    return source.modules_dir is not None and any(source.modules_dir.rglob(suffix))


def _kernel_needs(source: KernelSource, program: str) -> bool:
    image = source.vmlinuz.read_bytes()
    packed = payload(image) if is_bzimage(image) else None
    return packed is not None and any(
        packed.startswith(magic) for magic, name in _MAGIC.items() if name == program
    )
