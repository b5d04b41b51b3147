"""Find what the built-in guest is made from: a kernel with its modules, and a static busybox.

Nothing is downloaded here; ``qemuvm setup`` fetches packages into the cache, and this looks at what is there.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_qemuvm.errors import GuestUnavailable
from pytest_qemuvm.guest import elf, vmlinux

if TYPE_CHECKING:
    from collections.abc import Iterator

_HINT = "run `qemuvm setup` once: it fetches a kernel and busybox without root and without installing them"
_HEAD = 1 << 16
"""How much of a file is read to tell what it is."""


@dataclass(frozen=True, slots=True)
class KernelSource:
    """A kernel that a guest can be built from."""

    vmlinuz: Path
    """The bzImage, or a plain vmlinux."""
    modules_dir: Path | None
    """The directory named after the release that holds its modules; None if none were found."""
    release: str
    """What ``uname -r`` says."""
    origin: str
    """Where it was found: ``named``, ``host`` or ``package NAME``."""


def packages_dir(cache: Path) -> Path:
    """Return the directory that holds one unpacked package per subdirectory."""
    return cache / "packages"


def find_kernel(explicit: Path | None, cache: Path, *, host: Path = Path("/")) -> KernelSource:
    """Return the kernel to use: the one named, else the host's, else the newest unpacked package.

    ``explicit`` is a kernel image, or a directory that is the root of an unpacked package. ``host`` is the
    root of the host's file system. Raises GuestUnavailable if what was named is no kernel, or if nothing was
    named and nothing is there.
    """
    if explicit is not None:
        return _named(explicit)
    found = _best(_in_tree(host, "host"))
    if found is None:
        # The modules of one package may come in another (Fedora's kernel-core and kernel-modules).
        roots = _package_roots(cache)
        found = _best(source for root in roots for source in _in_tree(root, f"package {root.name}", roots))
    if found is None:
        raise GuestUnavailable(
            "there is no kernel to build the guest from",
            f"looked in /boot (readable, with its modules in /lib/modules) and in {packages_dir(cache)}",
            _HINT,
        )
    return found


def find_busybox(explicit: Path | None, cache: Path) -> Path:
    """Return a static busybox: the one named, else from PATH, else from an unpacked package.

    Raises GuestUnavailable if the named one is missing or not static, or if there is none.
    """
    if explicit is not None:
        if not _is_static(explicit):
            raise GuestUnavailable(
                f"{explicit} is not a static busybox",
                "the guest has no dynamic loader" if explicit.is_file() else "there is no such file",
            )
        return explicit
    from_path = shutil.which("busybox")
    if from_path and _is_static(Path(from_path)):
        return Path(from_path)
    for root in _package_roots(cache):
        for place in (
            "bin/busybox",
            "usr/bin/busybox",
            "bin/busybox.static",
            "sbin/busybox",
            "usr/sbin/busybox",
        ):
            if _is_static(root / place):
                return root / place
    raise GuestUnavailable(
        "there is no static busybox to build the guest from",
        f"looked in PATH and in {packages_dir(cache)}",
        _HINT,
    )


def _named(path: Path) -> KernelSource:
    if path.is_dir():
        found = _best(_in_tree(path, "named"))
        if found is None:
            raise GuestUnavailable(
                f"{path} holds no kernel",
                "expected boot/vmlinuz-RELEASE with lib/modules/RELEASE, or lib/modules/RELEASE/vmlinuz",
            )
        return found
    try:
        release = _release(path)
    except OSError as error:
        raise GuestUnavailable(f"the kernel {path} cannot be read", str(error)) from error
    if release is None:
        raise GuestUnavailable(
            f"{path} is not a kernel that can be booted here",
            "it is neither an x86 bzImage nor a 64-bit vmlinux",
            "name a vmlinuz, a vmlinux or an unpacked kernel package",
        )
    return KernelSource(path, _modules_of(path, release), release, "named")


def _release(path: Path) -> str | None:
    with path.open("rb") as file:
        head = file.read(_HEAD)
        release = vmlinux.bzimage_release(head)
        if release is None and elf.header(head) is not None:
            release = vmlinux.vmlinux_release(head + file.read())
    return release


def _modules_of(kernel: Path, release: str) -> Path | None:
    """Return the modules that lie where a package or the host would have put them."""
    root = kernel.absolute().parent.parent
    for place in (
        kernel.absolute().parent,
        root / "lib/modules" / release,
        root / "usr/lib/modules" / release,
        Path("/lib/modules") / release,
    ):
        if place.name == release and (place / "kernel").is_dir():
            return place
    return None


def _in_tree(root: Path, origin: str, modules_from: list[Path] | None = None) -> Iterator[KernelSource]:
    """Yield the readable kernels of a tree that have modules."""
    for vmlinuz in sorted(root.glob("boot/vmlinuz-*")):
        release = vmlinuz.name.removeprefix("vmlinuz-")
        for other in (root, *(modules_from or [])):
            for lib in ("lib/modules", "usr/lib/modules"):
                modules = other / lib / release
                if (modules / "kernel").is_dir() and _is_kernel(vmlinuz):
                    yield KernelSource(vmlinuz, modules, release, origin)
    for lib in ("lib/modules", "usr/lib/modules"):
        for vmlinuz in sorted(root.glob(f"{lib}/*/vmlinuz")):
            if (vmlinuz.parent / "kernel").is_dir() and _is_kernel(vmlinuz):
                yield KernelSource(vmlinuz, vmlinuz.parent, vmlinuz.parent.name, origin)


def _is_kernel(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return False
    return vmlinux.is_bzimage(head) or elf.header(head) is not None


def _is_static(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return elf.is_static(file.read(_HEAD))
    except OSError:
        return False


def _package_roots(cache: Path) -> list[Path]:
    directory = packages_dir(cache)
    return sorted(path for path in directory.iterdir() if path.is_dir()) if directory.is_dir() else []


def _best(found: Iterator[KernelSource]) -> KernelSource | None:
    """Return the newest, a cloud kernel only if there is no other: it lacks USB, 9p, graphics, vmgenid."""
    return max(
        found, key=lambda source: ("cloud" not in source.release, _version(source.release)), default=None
    )


def _version(release: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", release))
