"""What a command's arguments lead to on the host: programs that it would run, files and sockets.

Pure, and tolerant: what is not of the type that QEMU expects leads nowhere, and is refused by others. A name
of a block node, a QOM path and a descriptor that was handed over lead nowhere either.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

Kind = Literal["program", "file", "socket", "hardware", "unknown"]


class Reach(NamedTuple):
    """One thing of the host that a command would use."""

    kind: Kind
    path: str
    """Where in the arguments it is named, as in ``arguments.backend.data.out``."""
    value: str
    """The path, or the program."""


def reaches(command: str, arguments: Mapping[str, Any]) -> Iterator[Reach]:
    """Yield what a command would reach; the actions of a ``transaction`` are other people's to judge."""
    where = "arguments"
    for key in _FILES.get(command, ()):
        yield from _file(arguments, key, where)
    for key in _LEGACY.get(command, ()):
        yield from _legacy(arguments, key, where)
    for key in _URIS.get(command, ()):
        yield from _uri(arguments.get(key), f"{where}.{key}")
    if command in _WALKS:
        yield from _WALKS[command](arguments, where)
        yield from _sockets(arguments, where)


def reaches_of_unknown(arguments: Mapping[str, Any]) -> Iterator[Reach]:
    """Yield every string that looks like a path or a program: what the command does with it nobody knows."""
    for path, value in _strings(arguments, "arguments"):
        if value.startswith("exec:"):
            yield Reach("program", path, value.removeprefix("exec:"))
        elif "/" in value:
            yield Reach("file", path, re.sub(r"\A(file|unix):", "", value))


def reaches_of_image(name: str, where: str) -> Iterator[Reach]:
    """Yield where an image is, by the name that QEMU gives it; nothing for one that is not on this host."""
    *parents, key = where.split(".")
    yield from _legacy({key: name}, key, ".".join(parents))


# Commands whose arguments are plain.

_FILES: Mapping[str, tuple[str, ...]] = {
    "screendump": ("filename",),
    "memsave": ("filename",),
    "pmemsave": ("filename",),
    "dump-skeys": ("filename",),
    "dumpdtb": ("filename",),
    "xen-save-devices-state": ("filename",),
    "xen-load-devices-state": ("filename",),
}
_LEGACY: Mapping[str, tuple[str, ...]] = {
    # Names of images in QEMU's older way: they may carry a protocol.
    "blockdev-change-medium": ("filename",),
    "blockdev-snapshot-sync": ("snapshot-file",),
    "drive-backup": ("target",),
    "drive-mirror": ("target",),
    # Written into an image's header, and followed the next time that it is opened.
    "change-backing-file": ("backing-file",),
    "block-stream": ("backing-file",),
    "block-commit": ("backing-file",),
}
_URIS: Mapping[str, tuple[str, ...]] = {
    "migrate": ("uri",),
    "migrate-incoming": ("uri",),
    "migrate-recover": ("uri",),
    "dump-guest-memory": ("protocol",),
}
_NETWORK = re.compile(r"(tcp|vsock|rdma|fd|nbd|nbd\+tcp|https?|ftps?|ssh|iscsi|nfs):")
_NBD_SOCKET = re.compile(r"nbd:unix:([^:]*)|nbd\+unix://.*?[?&]socket=([^&]*)")
_PROTOCOL = re.compile(r"[a-z][a-z0-9+._-]*:")
_FD = re.compile(r"/dev/fdset/\d+")


def _file(holder: Mapping[str, Any], key: str, where: str, kind: Kind = "file") -> Iterator[Reach]:
    value = holder.get(key)
    if isinstance(value, str) and value and not _FD.fullmatch(value):
        yield Reach(kind, f"{where}.{key}", value)


def _legacy(holder: Mapping[str, Any], key: str, where: str) -> Iterator[Reach]:
    value = holder.get(key)
    if not isinstance(value, str):
        return
    where = f"{where}.{key}"
    if value.startswith("json:"):
        try:
            options = json.loads(value.removeprefix("json:"))
        except (ValueError, RecursionError):
            options = None
        if isinstance(options, dict):
            yield from _block(options, where)
            yield from _sockets(options, where)
        else:
            yield Reach("unknown", where, value)
    elif nbd := _NBD_SOCKET.match(value):
        yield Reach("socket", where, nbd[1] or nbd[2])
    elif _NETWORK.match(value):
        return
    elif _PROTOCOL.match(value) and not value.startswith("file:"):
        yield Reach("unknown", where, value)
    elif value and not _FD.fullmatch(value):
        yield Reach("file", where, value.removeprefix("file:"))


def _uri(value: object, where: str) -> Iterator[Reach]:
    if not isinstance(value, str) or _NETWORK.match(value):
        return
    scheme, _, rest = value.partition(":")
    if scheme == "exec":
        yield Reach("program", where, rest)
    elif scheme == "unix":
        yield Reach("socket", where, rest)
    elif scheme == "file":
        yield Reach("file", where, rest.partition(",offset=")[0])
    else:
        yield Reach("unknown", where, value)


# Commands whose arguments are trees.


def _strings(value: object, where: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield where, value
    for path, inner in _inner(value, where):
        yield from _strings(inner, path)


def _inner(value: object, where: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((f"{where}.{key}", inner) for key, inner in value.items())
    elif isinstance(value, (list, tuple)):
        yield from ((f"{where}[{index}]", inner) for index, inner in enumerate(value))


def _sockets(value: object, where: str) -> Iterator[Reach]:
    """Yield every unix address, in both of the ways in which QEMU writes one."""
    if isinstance(value, dict) and value.get("type") == "unix":
        data = value.get("data")
        flat, place = (data, f"{where}.data") if isinstance(data, dict) else (value, where)
        if not flat.get("abstract"):
            yield from _file(flat, "path", place, "socket")
    for path, inner in _inner(value, where):
        yield from _sockets(inner, path)


_BLOCK_PATHS = ("filename", "dir", "conf", "config", "logfile", "backing-file")
_BLOCK_DEVICES = ("virtio-blk-vhost-user", "virtio-blk-vhost-vdpa", "virtio-blk-vfio-pci", "io_uring")


def _block(value: object, where: str) -> Iterator[Reach]:
    """Yield what a block node, or any below it, rests on; a str is the name of a node that is there."""
    if isinstance(value, dict):
        for key in _BLOCK_PATHS:
            yield from _file(value, key, where)
        driver = value.get("driver")
        if driver == "nvme":
            yield from _file(value, "device", where, "hardware")
        elif isinstance(driver, str) and (driver in _BLOCK_DEVICES or driver.startswith("nvme-")):
            yield from _file(value, "path", where)
    for path, inner in _inner(value, where):
        yield from _block(inner, path)


def _chardev(arguments: Mapping[str, Any], where: str) -> Iterator[Reach]:
    for path, inner in _inner(arguments.get("backend"), f"{where}.backend"):
        if isinstance(inner, dict):
            for key in ("out", "in", "device", "logfile", "path"):
                yield from _file(inner, key, path)


def _netdev(arguments: Mapping[str, Any], where: str) -> Iterator[Reach]:
    kind = arguments.get("type")
    if kind == "tap":
        yield from _tap(arguments, where)
    elif kind == "bridge":
        yield Reach("program", f"{where}.helper", str(arguments.get("helper", "qemu-bridge-helper")))
    elif kind == "passt":
        yield Reach("program", f"{where}.path", str(arguments.get("path", "passt")))
    elif kind == "user":
        yield from _usernet(arguments, where)
    elif kind in ("vde", "netmap", "vhost-vdpa", "af-xdp"):
        for key in ("sock", "devname", "vhostdev", "map-path"):
            yield from _file(arguments, key, where)


def _tap(arguments: Mapping[str, Any], where: str) -> Iterator[Reach]:
    if arguments.get("helper") is not None:
        yield Reach("program", f"{where}.helper", str(arguments["helper"]))
    elif not any(key in arguments for key in ("fd", "fds")):
        # Left out, they are QEMU's own scripts, not none.
        for key in ("script", "downscript"):
            program = str(arguments.get(key, f"QEMU's default {key}"))
            if program not in ("no", ""):
                yield Reach("program", f"{where}.{key}", program)


def _usernet(arguments: Mapping[str, Any], where: str) -> Iterator[Reach]:
    yield from _file(arguments, "tftp", where)
    if isinstance(arguments.get("smb"), str):
        yield Reach("program", f"{where}.smb", "smbd")
    for path, forward in _strings(arguments.get("guestfwd"), f"{where}.guestfwd"):
        target = forward.partition("-")[2]
        kind, _, rest = target.partition(":")
        if kind == "cmd":
            yield Reach("program", path, rest)
        elif kind in ("file", "pipe", "unix"):
            yield Reach("socket" if kind == "unix" else "file", path, rest.partition(",")[0])
        elif target.startswith("/"):
            yield Reach("file", path, target)
    for path, forward in _strings(arguments.get("hostfwd"), f"{where}.hostfwd"):
        if forward.startswith("unix:"):
            yield Reach("socket", path, forward.removeprefix("unix:").rpartition("-")[0])


_OBJECT_PATHS = (
    *("mem-path", "file", "filename", "dir", "path", "evdev", "log", "rom-path", "vbios"),
    *("dh-cert-file", "session-file", "sev-device", "quote-generation-socket"),
)
_HARMLESS = frozenset({"/dev/urandom", "/dev/random", "/dev/hwrng", "/dev/zero", "/dev/null", "none"})


def _object(arguments: Mapping[str, Any], where: str) -> Iterator[Reach]:
    for key in _OBJECT_PATHS:
        for reach in _file(arguments, key, where):
            if reach.value not in _HARMLESS:
                yield reach


_DEVICE_PATHS = ("sysfsdev", "vhostdev", "rootdir", "file", "hidraw", "dir", "db", "memory-file")


def _device(arguments: Mapping[str, Any], where: str) -> Iterator[Reach]:
    for key in _DEVICE_PATHS:
        yield from _file(arguments, key, where)
    rom = arguments.get("romfile")
    # A bare name is one of QEMU's own.
    if isinstance(rom, str) and "/" in rom:
        yield Reach("file", f"{where}.romfile", rom)


def _export(arguments: Mapping[str, Any], where: str) -> Iterator[Reach]:
    yield from _file(arguments, "mountpoint", where)


def _property(arguments: Mapping[str, Any], where: str) -> Iterator[Reach]:
    if arguments.get("property") in {*_OBJECT_PATHS, *_DEVICE_PATHS, "romfile"}:
        yield from _file(arguments, "value", where)


def _parameters(arguments: Mapping[str, Any], where: str) -> Iterator[Reach]:
    words = arguments.get("cpr-exec-command")
    if words:
        yield Reach("program", f"{where}.cpr-exec-command", str(words))


def _channels(arguments: Mapping[str, Any], where: str) -> Iterator[Reach]:
    for path, channel in _inner(arguments.get("channels"), f"{where}.channels"):
        address = channel.get("addr") if isinstance(channel, dict) else None
        if isinstance(address, dict):
            yield from _file(address, "filename", f"{path}.addr")
            if address.get("transport") == "exec":
                yield Reach("program", f"{path}.addr.args", str(address.get("args")))


def _nothing(arguments: Mapping[str, Any], where: str) -> Iterator[Reach]:  # noqa: ARG001  # as the others
    return iter(())


_WALKS: Mapping[str, Callable[[Mapping[str, Any], str], Iterator[Reach]]] = {
    "blockdev-add": _block,
    "blockdev-create": _block,
    "blockdev-reopen": _block,
    "x-blockdev-amend": _block,
    "chardev-add": _chardev,
    "chardev-change": _chardev,
    "netdev_add": _netdev,
    "object-add": _object,
    "device_add": _device,
    "block-export-add": _export,
    "nbd-server-start": _nothing,
    "display-update": _nothing,
    "qom-set": _property,
    "migrate": _channels,
    "migrate-incoming": _channels,
    "migrate-set-parameters": _parameters,
}
