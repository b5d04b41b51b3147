"""Fedora's and Red Hat's packages, also for a user who is not root: dnf keeps a cache per user."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

from pytest_qemuvm.host.packages import PackageError, PackageManager

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_KERNEL = ("kernel-core", "kernel-modules-core", "kernel-modules")
_DOWNLOAD_SECONDS = 1800.0
_LOCAL_SECONDS = 300.0

_RPM = re.compile(r"(?P<name>.+)-(?P<version>[^-]+)-(?P<release>[^-]+)\.[^.-]+\.rpm")


def parse_rpm_name(name: str) -> tuple[str, str]:
    """Split a package's file name into its name and ``version-release``; raises ValueError."""
    match = _RPM.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is not the file name of an rpm")
    return match["name"], f"{match['version']}-{match['release']}"


def newest(files: Sequence[Path], package: str) -> Path | None:
    """Return the file of a package; of several versions the one that the repository gave last."""
    found = [file for file in files if parse_rpm_name(file.name)[0] == package]
    return max(found, key=lambda file: file.stat().st_mtime, default=None)


class Dnf(PackageManager):
    """dnf 4 (with dnf-plugins-core) or 5, and whatever unpacks an rpm here."""

    name = "dnf"
    qemu_packages = ("qemu-system-x86-core", "qemu-img")
    busybox_packages = ("busybox",)
    kernel_source = " ".join(_KERNEL)

    def install_commands(self, packages: Sequence[str]) -> list[list[str]]:
        """Return one installation without weak dependencies."""
        return [["dnf", "install", "--assumeyes", "--setopt=install_weak_deps=False", *packages]]

    def fetch(self, packages: Sequence[str], work: Path) -> list[Path]:
        """Download for x86_64: the built-in guest is that whatever the host is."""
        rpms = work / "rpms"
        rpms.mkdir(exist_ok=True)
        argv = ["dnf", "download", "--assumeyes", f"--destdir={rpms}", "--forcearch=x86_64", *packages]
        outcome = self._run(argv, seconds=_DOWNLOAD_SECONDS)
        files = sorted(rpms.glob("*.rpm"))
        chosen = [newest(files, package) for package in packages]
        if None in chosen:
            raise PackageError(
                f"dnf did not download all of {', '.join(packages)}",
                outcome.evidence(),
                "busybox is in Fedora's repositories, not in Red Hat's",
            )
        return [file for file in chosen if file is not None]

    def fetch_kernel(self, work: Path) -> list[Path]:
        """Download the newest kernel's image and modules, which dnf resolves to one version."""
        return self.fetch(_KERNEL, work)

    def extract(self, file: Path, tree: Path) -> None:
        """Unpack an rpm's files with bsdtar, or with rpm2cpio and cpio."""
        if shutil.which("bsdtar"):
            self._run(["bsdtar", "-xf", str(file), "-C", str(tree)], seconds=_LOCAL_SECONDS)
            return
        script = 'rpm2cpio "$1" | cpio --extract --make-directories --quiet --directory "$2"'
        self._run(["sh", "-c", script, "sh", str(file), str(tree)], seconds=_LOCAL_SECONDS)

    def tree_name(self, file: Path) -> str:
        """Take name and version from ``name-1.2-3.fc41.x86_64.rpm``."""
        return "_".join(parse_rpm_name(file.name))
