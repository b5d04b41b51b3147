"""Put the guest's first root file system together: busybox, modules, and the scripts of ``rootfs/``."""

from __future__ import annotations

import gzip
import os
import subprocess
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_qemuvm.errors import GuestUnavailable
from pytest_qemuvm.guest import waker
from pytest_qemuvm.guest.cpio import Archive
from pytest_qemuvm.guest.modules import Module, ModuleTree, modules_alias, modules_dep, without_signature

if TYPE_CHECKING:
    from collections.abc import Collection

ROOTFS = Path(__file__).parent / "rootfs"
"""The guest's own files, as they lie in the guest."""

REQUIRED = ("virtio_pci", "virtio_console")
"""Without these there is no way to the agent."""

WANTED = (
    *REQUIRED,
    # transport, entropy, memory
    "virtio_mmio", "virtio_rng", "virtio_balloon", "virtio_mem", "virtio_input",
    # disks
    "virtio_blk", "virtio_scsi", "sd_mod", "sr_mod", "sg", "nvme", "ahci", "ata_generic", "loop",
    # networks and shared directories
    "virtio_net", "e1000e", "e1000", "9pnet_virtio", "9p", "virtiofs",
    # USB and input
    "xhci_pci", "ehci_pci", "usb_storage", "uas", "usbhid", "hid_generic", "evdev", "atkbd",
    # file systems; ext4 asks for crc32c through the crypto layer, which names no module
    "ext4", "crc32c_generic", "vfat", "nls_cp437", "nls_ascii", "nls_iso8859_1", "nls_utf8", "isofs",
    "overlay",
    # the machine
    "qemu_fw_cfg", "button", "i6300esb", "pvpanic_pci", "pvpanic_mmio", "vmgenid",
    # the screen
    "bochs", "virtio_gpu",
)  # fmt: skip
"""What the guest can drive. A kernel that has one built in, or lacks it, is taken as it is."""

AT_BOOT = (
    *REQUIRED, "qemu_fw_cfg", "pvpanic_mmio", "virtio_mmio", "virtio_rng", "virtio_balloon",
    "virtio_blk", "virtio_scsi", "sd_mod", "virtio_net",
)  # fmt: skip
"""What most boots load. It lies in the archive as it is; the rest, which few boots load, is compressed: the
kernel copies the whole archive at every boot, and 16 MB of it took 0.2 s under emulation."""

LEVEL = 6
"""How hard gzip tries. The default, 9, takes 4.1 s for all modules, this 0.4 and 26 KB more of 6.9 MB."""

_EMPTY = ("proc", "sys", "dev", "run", "tmp", "root", "mnt", "var/log", "usr/local/bin", "usr/local/sbin")
_LINKS = {"sbin": "bin", "usr/bin": "../bin", "usr/sbin": "../bin", "linuxrc": "init", "var/run": "../run"}


def script_files(root: Path = ROOTFS) -> list[tuple[str, bytes]]:
    """Return path and content of the guest's own files, in a stable order."""
    found = []
    for directory, names, files in os.walk(root):
        names.sort()
        for name in sorted(files):
            path = Path(directory, name)
            found.append((path.relative_to(root).as_posix(), path.read_bytes()))
    return found


def applets(busybox: Path) -> list[str]:
    """Return the commands that this busybox has. Raises GuestUnavailable if it does not run here."""
    try:
        done = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError) as error:
        raise GuestUnavailable(f"{busybox} does not list its commands", str(error)) from error
    return sorted(set(done.stdout.split()) - {"busybox"})


def choose_modules(tree: ModuleTree) -> list[Module]:
    """Return the modules to put in. Raises GuestUnavailable if the agent could not be reached."""
    missing = [name for name in REQUIRED if not tree.has(name)]
    if missing:
        raise GuestUnavailable(
            f"this kernel has no {' and no '.join(missing)}",
            f"neither built in nor among the modules in {tree.directory}",
            "name another kernel, or let `qemuvm setup` fetch one",
        )
    return tree.closure(WANTED)


def module_path(name: str, plain: Collection[str]) -> str:
    """Return where a module lies below ``lib/modules/RELEASE``."""
    return f"kernel/{name}.ko" if name in plain else f"kernel/{name}.ko.gz"


def build_archive(busybox: Path, release: str, tree: ModuleTree | None) -> bytes:
    """Return the archive, uncompressed: unpacking costs more than reading, above all under emulation."""
    archive = Archive()
    # The kernel opens it for process 1 before anything is mounted.
    archive.device("dev/console", 5, 1)
    for path in _EMPTY:
        archive.directory(path)
    for path, target in _LINKS.items():
        archive.symlink(path, target)
    archive.file("bin/busybox", busybox.read_bytes(), 0o755)
    archive.file("lib/qemuvm/waker", waker.program(), 0o755)
    own = script_files()
    for path, data in own:
        archive.file(path, data, 0o755 if data.startswith(b"#!") else 0o644)
    taken = {path.removeprefix("bin/") for path, _data in own}
    for name in applets(busybox):
        if name not in taken:
            archive.symlink(f"bin/{name}", "busybox")
    base = f"lib/modules/{release}"
    modules = choose_modules(tree) if tree is not None else []
    plain = {module.name for module in tree.closure(AT_BOOT)} if tree is not None else set()
    for module in modules:
        data = without_signature(module.data)
        data = data if module.name in plain else gzip.compress(data, LEVEL, mtime=0)
        archive.file(f"{base}/{module_path(module.name, plain)}", data)
    archive.file(f"{base}/modules.dep", modules_dep(modules, partial(module_path, plain=plain)).encode())
    archive.file(f"{base}/modules.alias", modules_alias(modules).encode())
    archive.file(f"{base}/modules.builtin", _builtin(tree))
    return archive.to_bytes()


def _builtin(tree: ModuleTree | None) -> bytes:
    names = sorted(tree.builtin) if tree is not None else []
    return "".join(f"kernel/{name}.ko\n" for name in names).encode()
