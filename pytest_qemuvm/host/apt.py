"""Debian's and Ubuntu's packages, also for a user who is not root.

apt is given directories of its own for its state, lists and cache; the sources and keys stay the system's.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from pytest_qemuvm.host.packages import NoNetwork, PackageError, PackageManager, lost_network

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_SYSTEM_LISTS = Path("/var/lib/apt/lists")
_STATUS = Path("/var/lib/dpkg/status")

_KERNELS = ("linux-image-amd64", "linux-image-generic")
"""The packages that always mean the newest generic kernel: Debian's, Ubuntu's. Not the cloud flavour: it has
no USB, AHCI, e1000e or vmgenid."""

_PART = re.compile(r"\s*\|?Depends: (linux-(?:image|binary|modules|modules-extra)-\d\S*)")

_INSTALL = ("apt-get", "install", "--yes", "--no-install-recommends")

_UPDATE_SECONDS = 300.0
_DOWNLOAD_SECONDS = 1800.0
_LOCAL_SECONDS = 300.0


def parse_kernel_parts(depends: str) -> list[str]:
    """Return the versioned kernel packages in the output of ``apt-cache depends``, each once."""
    found = (match[1] for match in map(_PART.match, depends.splitlines()) if match)
    return list(dict.fromkeys(found))


class Apt(PackageManager):
    """apt-get, apt-cache and dpkg-deb."""

    name = "apt"
    qemu_packages = ("qemu-system-x86", "qemu-utils")
    busybox_packages = ("busybox-static",)
    kernel_source = "what linux-image-amd64 or linux-image-generic stands for today"

    def install_commands(self, packages: Sequence[str]) -> list[list[str]]:
        """Return an update and an installation without recommendations (desktops, sound servers)."""
        return [
            ["apt-get", "update"],
            ["env", "DEBIAN_FRONTEND=noninteractive", *_INSTALL, *packages],
        ]

    def fetch(self, packages: Sequence[str], work: Path) -> list[Path]:
        """Download with the system's lists, or, where they are missing or stale, with fresh private ones."""
        return self._with_lists(work, lambda lists: self._download(packages, work, lists))

    def fetch_kernel(self, work: Path) -> list[Path]:
        """Follow the distribution's meta package to the image of today's version and its modules."""
        return self._with_lists(
            work, lambda lists: self._download(self._kernel_packages(work, lists), work, lists)
        )

    def extract(self, file: Path, tree: Path) -> None:
        """Unpack a .deb's files, without its scripts."""
        self._run(["dpkg-deb", "-x", str(file), str(tree)], seconds=_LOCAL_SECONDS)

    def tree_name(self, file: Path) -> str:
        """Take name and version from ``name_1%3a2.3-4_amd64.deb``; the epoch (1:) says nothing to anybody."""
        package, version, _ = file.name.split("_", 2)
        return f"{package}_{unquote(version).rpartition(':')[2]}"

    def _with_lists(self, work: Path, act: Callable[[Path], list[Path]]) -> list[Path]:
        """Act on the system's lists first; if that fails, they may be stale: act on new ones."""
        if any(_SYSTEM_LISTS.glob("*_Packages*")):
            try:
                return act(_SYSTEM_LISTS)
            except NoNetwork:
                raise
            except PackageError as error:
                self._progress(f"{error.brief}; trying again with new package lists")
        lists = work / "state" / "lists"
        self._update(work, lists)
        return act(lists)

    def _update(self, work: Path, lists: Path) -> None:
        argv = ["apt-get", *_private(work, lists), "--quiet", "update"]
        outcome = self._run([*argv, "-o", "APT::Update::Error-Mode=any"], seconds=_UPDATE_SECONDS)
        if lost_network(outcome.stderr):
            # Older versions of apt end with status 0 although they fetched nothing.
            raise NoNetwork("apt cannot reach its mirrors", outcome.evidence(lines=15))

    def _download(self, packages: Sequence[str], work: Path, lists: Path) -> list[Path]:
        debs = work / "debs"
        debs.mkdir(exist_ok=True)
        argv = ["apt-get", *_private(work, lists), "--quiet", "download", *packages]
        self._run(argv, seconds=_DOWNLOAD_SECONDS, cwd=debs)
        files = {file.name.partition("_")[0]: file for file in debs.glob("*.deb")}
        missing = [package for package in packages if package not in files]
        if missing:
            raise PackageError(f"apt did not download {', '.join(missing)}", f"got: {sorted(files)}")
        return [files[package] for package in packages]

    def _kernel_packages(self, work: Path, lists: Path) -> list[str]:
        for meta in _KERNELS:
            parts = self._depends(meta, work, lists)
            for image in [part for part in parts if part.startswith("linux-image-")]:
                # Ubuntu and newer Debians keep the modules in packages of their own.
                parts += self._depends(image, work, lists)
            if parts:
                return list(dict.fromkeys(parts))
        raise PackageError(
            "apt knows no generic kernel",
            f"looked for: {', '.join(_KERNELS)}",
            "check the apt sources, or name a kernel of your own with --qemu-kernel",
        )

    def _depends(self, package: str, work: Path, lists: Path) -> list[str]:
        argv = ["apt-cache", *_private(work, lists), "depends", package]
        return parse_kernel_parts(self._run(argv, seconds=_LOCAL_SECONDS, check=False).stdout)


def _private(work: Path, lists: Path) -> list[str]:
    """Return the options that keep apt's writing inside ``work``."""
    (work / "state" / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    (work / "cache" / "archives" / "partial").mkdir(parents=True, exist_ok=True)
    options = {
        "Dir::State": work / "state",
        "Dir::State::lists": lists,
        "Dir::State::status": _STATUS,
        "Dir::Cache": work / "cache",
        # The built-in guest is x86_64 whatever the host is.
        "APT::Architecture": "amd64",
        "APT::Architectures": "amd64",
        # apt would give root's downloads to a user who cannot enter these directories.
        "APT::Sandbox::User": "",
    }
    return [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
