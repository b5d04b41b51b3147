"""Make an unpacked kernel smaller, and its files lie where every distribution's reader looks for them."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

UNUSED = (
    "sound",
    "net/bluetooth",
    "net/mac80211",
    "net/wireless",
    "drivers/accel",
    "drivers/bluetooth",
    "drivers/gpu/drm/amd",
    "drivers/gpu/drm/gma500",
    "drivers/gpu/drm/i915",
    "drivers/gpu/drm/nouveau",
    "drivers/gpu/drm/radeon",
    "drivers/gpu/drm/xe",
    "drivers/hwmon",
    "drivers/iio",
    "drivers/infiniband",
    "drivers/isdn",
    "drivers/leds",
    "drivers/media",
    "drivers/mfd",
    "drivers/net/can",
    "drivers/net/ethernet/broadcom",
    "drivers/net/ethernet/cavium",
    "drivers/net/ethernet/chelsio",
    "drivers/net/ethernet/mellanox",
    "drivers/net/ethernet/netronome",
    "drivers/net/ethernet/qlogic",
    "drivers/net/ethernet/sfc",
    "drivers/net/wireless",
    "drivers/net/wwan",
    "drivers/platform",
    "drivers/regulator",
    "drivers/staging",
    "drivers/thunderbolt",
)
"""Directories under ``lib/modules/<release>/kernel`` whose drivers need hardware that QEMU does not have."""

_DEPENDS = re.compile(rb"\0depends=([^\0]+)\0")


def prune_modules(tree: Path) -> int:
    """Delete unused drivers from a tree, except what a remaining one depends on; return the bytes saved.

    Only plain ``.ko`` files: compressed modules are a quarter of the size, and reading what they depend on
    would take longer than the space is worth.
    """
    saved = 0
    for kernel in (tree / "lib" / "modules").glob("*/kernel"):
        unused = {
            _module_name(path): path for directory in UNUSED for path in _plain_modules(kernel / directory)
        }
        if not unused:
            continue
        kept = [path for path in _plain_modules(kernel) if unused.get(_module_name(path)) != path]
        for name in _needed(kept, unused):
            del unused[name]
        for path in unused.values():
            saved += path.stat().st_size
            path.unlink()
    return saved


def _needed(kept: list[Path], unused: dict[str, Path]) -> set[str]:
    """Return the unused modules that kept ones depend on, directly or through others."""
    needed: set[str] = set()
    queue = list(kept)
    while queue:
        for name in depends(queue.pop().read_bytes()):
            if name in unused and name not in needed:
                needed.add(name)
                queue.append(unused[name])
    return needed


def depends(module: bytes) -> list[str]:
    """Return the names in the ``depends`` entry of an uncompressed module's ``.modinfo``."""
    match = _DEPENDS.search(module)
    return [_underscored(name) for name in match[1].decode().split(",")] if match else []


def _plain_modules(directory: Path) -> Iterator[Path]:
    return directory.rglob("*.ko")


def _module_name(path: Path) -> str:
    return _underscored(path.name.removesuffix(".ko"))


def _underscored(name: str) -> str:
    # The kernel treats both spellings of a module's name as one.
    return name.replace("-", "_")


def give_usual_places(tree: Path) -> None:
    """Let a tree have ``lib/modules``, ``boot/vmlinuz-<release>`` and ``bin/busybox``, by links.

    Newer distributions unpack to ``usr/lib`` and ``usr/bin``, Fedora keeps the kernel beside its modules and
    busybox in ``sbin``. Some ship the kernel readable by root alone: here it belongs to whoever unpacked it.
    """
    _link(tree / "lib" / "modules", tree / "usr" / "lib" / "modules")
    for image in (tree / "lib" / "modules").glob("*/vmlinuz"):
        _link(tree / "boot" / f"vmlinuz-{image.parent.name}", image)
    for directory in ("usr/bin", "sbin", "usr/sbin"):
        _link(tree / "bin" / "busybox", tree / directory / "busybox")
    for image in (tree / "boot").glob("vmlinuz-*"):
        image.chmod(0o644)
    for useless in ("usr/share", "usr/lib/debug"):
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(tree / useless)


def _link(usual: Path, actual: Path) -> None:
    if usual.exists() or not actual.exists():
        return
    usual.parent.mkdir(parents=True, exist_ok=True)
    # Relative, because the tree is renamed when it is complete.
    usual.symlink_to(os.path.relpath(actual, usual.parent))
