"""Build the built-in Linux guest once, and find it again in the cache.

A build is a directory named after a hash of everything that shapes it. It is made under another name and
renamed when complete, so what has the name is whole, whatever was killed and when.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_qemuvm.errors import GuestUnavailable
from pytest_qemuvm.guest import vmlinux
from pytest_qemuvm.guest.initramfs import WANTED, build_archive, script_files
from pytest_qemuvm.guest.kernel import KernelSource, find_busybox, find_kernel
from pytest_qemuvm.guest.modules import ModuleTree
from pytest_qemuvm.host.paths import file_identity
from pytest_qemuvm.spec.boot import KernelBoot

if TYPE_CHECKING:
    from collections.abc import Callable

BUILDER = 3
"""Raised whenever this package builds something else from the same inputs."""

BUILD_SECONDS = 600.0
"""How long another process is waited for that builds the same guest, which takes seconds."""

_BLACKLIST = (
    # Kernel features that no test uses and that take 10 to 200 ms each to set up under emulation.
    "init_kprobe_trace", "init_trace_printk_function_export", "init_blk_tracer",
    "bpf_rstat_kfunc_init", "bpf_key_sig_kfuncs_init", "kfunc_init",
    "bpf_prog_test_run_init", "bpf_tcp_ca_kfunc_init", "cubictcp_register",
    "load_system_certificate_list", "init_encrypted", "crypto_kdf108_init",
    "snapshot_device_init", "init_zswap", "ksm_init",
)  # fmt: skip

COMMAND_LINE = " ".join(
    (
        "console=tty0 console=ttyS0 quiet loglevel=1",
        # A panic shows on the console whatever the level; then the machine resets, which the host sees.
        "panic=-1",
        # Hot-plugged memory is used at once, and can be taken away again.
        "memhp_default_state=online_movable",
        # A disk that was plugged at launch is there when its driver has loaded.
        "scsi_mod.scan=sync usb_storage.delay_use=0",
        "net.ifnames=0",
        # A cursor that blinks makes each screenshot another picture, and is most of what an idle guest does.
        "vt.global_cursor_default=0",
        # Room for hot-plugged memory above 4 GiB makes the kernel set 64 MiB aside for bouncing; 2 will do.
        "swiotlb=1024",
        # From here on: time, nothing else. Checks and hardening that a throw-away guest does without.
        "cryptomgr.notests nokaslr mitigations=off rodata=off init_on_alloc=0 hardened_usercopy=off",
        "randomize_kstack_offset=off kfence.sample_interval=0 lsm= audit=0 psi=0",
        "no_timer_check tsc=reliable noreplace-smp i8042.noaux rcupdate.rcu_expedited=1 random.trust_cpu=on",
        f"initcall_blacklist={','.join(_BLACKLIST)}",
    )
)
"""The tuned kernel command line; each word was measured to save time or is needed, see the comments."""


@dataclass(frozen=True, slots=True)
class TinyGuest:
    """A built guest, ready to boot."""

    boot: KernelBoot
    """Kernel, archive and command line."""
    key: str
    """Changes whenever anything that shapes the guest does; part of the key of live templates."""
    vmlinuz: Path
    """The kernel that it was made of, as a boot loader takes it."""
    directory: Path
    """The build, which belongs to the cache: read only."""
    release: str
    """The kernel's release."""
    origin: str
    """Where the kernel came from."""
    note: str
    """How the kernel is entered, and if it is the slow way, why."""


def cached_tiny(cache: Path, *, kernel: Path | None = None, busybox: Path | None = None) -> TinyGuest | None:
    """Return the guest if it has been built from just these inputs; None if it would have to be built.

    Takes a few milliseconds. Raises GuestUnavailable if what it is made from is missing.
    """
    source, box = find_kernel(kernel, cache), find_busybox(busybox, cache)
    key = _key(source, box)
    return _load(_home(cache) / key, key)


def build_tiny(
    cache: Path,
    *,
    kernel: Path | None = None,
    busybox: Path | None = None,
    progress: Callable[[str], None] = lambda _line: None,
) -> TinyGuest:
    """Return the guest, built if need be (some seconds); one process builds, the others wait for it.

    ``kernel`` and ``busybox`` name others than those that would be found. ``progress`` is told what is going
    on, only when something takes time. Raises GuestUnavailable if what the guest is made from is missing, and
    if it cannot be read or the cache not be written; LockTimeout, which names the other one, if that does not
    come to an end.
    """
    source, box = find_kernel(kernel, cache), find_busybox(busybox, cache)
    key = _key(source, box)
    home = _home(cache)
    found = _load(home / key, key)
    if found is not None:
        return found
    try:
        return _build_once(home, key, source, box, progress)
    except OSError as error:
        raise GuestUnavailable(
            "the guest cannot be built",
            str(error),
            f"it is kept in {home}: see that you can write there, or set QEMUVM_CACHE to another directory",
        ) from error


def _build_once(
    home: Path, key: str, source: KernelSource, box: Path, progress: Callable[[str], None]
) -> TinyGuest:
    from pytest_qemuvm.host.deadline import Deadline  # noqa: PLC0415  # a hit, the usual case, needs no lock
    from pytest_qemuvm.host.locks import locked  # noqa: PLC0415  # as above

    home.mkdir(parents=True, exist_ok=True)
    with locked(
        home / f"{key}.lock",
        "the guest that is being built",
        Deadline.after(BUILD_SECONDS),
        lambda holder: progress(f"waiting for the guest that {holder} is building"),
    ):
        found = _load(home / key, key)
        if found is None:
            progress(f"building the guest from kernel {source.release} ({source.origin})")
            found = _build(home, key, source, box)
    return found


def _home(cache: Path) -> Path:
    return cache / "tiny"


def _key(source: KernelSource, busybox: Path) -> str:
    """Hash everything that shapes the guest; of large files their identity, so that a hit stays cheap."""
    parts: list[object] = [BUILDER, COMMAND_LINE, WANTED, source.release, *file_identity(source.vmlinuz)]
    parts += file_identity(busybox)
    if source.modules_dir is not None:
        parts += file_identity(source.modules_dir / "kernel")
    digest = hashlib.sha256(json.dumps(parts).encode())
    for path, data in script_files():
        digest.update(f"{path}\0{len(data)}\0".encode())
        digest.update(data)
    return digest.hexdigest()[:20]


def _load(directory: Path, key: str) -> TinyGuest | None:
    try:
        manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
        sizes: dict[str, int] = manifest["sizes"]
        if any((directory / name).stat().st_size != size for name, size in sizes.items()):
            return None
        boot = KernelBoot(
            kernel=str(directory / manifest["kernel"]),
            initrd=str(directory / "initrd"),
            append=COMMAND_LINE,
        )
        vmlinuz = Path(manifest["vmlinuz"])
        return TinyGuest(
            boot, key, vmlinuz, directory, manifest["release"], manifest["origin"], manifest["note"]
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # Not there, or touched by somebody: it is built (again).
        return None


def _build(home: Path, key: str, source: KernelSource, busybox: Path) -> TinyGuest:
    """Build into a directory of our own and rename it. The caller holds the lock of this key."""
    for left in home.glob(f".{key}.*"):
        # A builder that was killed; nobody else can be at it, we hold the lock.
        shutil.rmtree(left, ignore_errors=True)
    work = home / f".{key}.{secrets.token_hex(4)}"
    work.mkdir(parents=True)
    try:
        _fill(work, source, busybox)
        final = home / key
        if final.exists():
            shutil.rmtree(final)
        work.rename(final)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    built = _load(final, key)
    assert built is not None, f"{final} was just built and cannot be read"
    return built


def _fill(work: Path, source: KernelSource, busybox: Path) -> None:
    image = source.vmlinuz.read_bytes()
    taken = vmlinux.extract(image)
    name = "vmlinuz" if taken.data is None else "vmlinux"
    files = {
        name: image if taken.data is None else taken.data,
        "initrd": build_archive(
            busybox, source.release, ModuleTree(source.modules_dir) if source.modules_dir else None
        ),
    }
    for file, data in files.items():
        path = work / file
        path.write_bytes(data)
        path.chmod(0o444)
    manifest = {
        "kernel": name,
        "sizes": {file: len(data) for file, data in files.items()},
        "release": source.release,
        "origin": source.origin,
        "note": taken.note,
        "vmlinuz": os.fspath(source.vmlinuz),
    }
    (work / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
