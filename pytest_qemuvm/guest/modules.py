"""Kernel modules: what they need, in which order, and the tables that modprobe reads.

Packages carry modules without ``modules.dep`` (depmod runs at installation), so everything is read from the
modules themselves: the ``.modinfo`` section of each ELF file.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_qemuvm.errors import GuestUnavailable
from pytest_qemuvm.guest import elf
from pytest_qemuvm.guest.decompress import decompress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_SIGNED = b"~Module signature appended~\n"
_SIGNATURE = struct.Struct(">3xBB3xI")
"""Lengths of signer, key id and signature, between fields that do not matter here."""
_SUFFIXES = (".ko", ".ko.xz", ".ko.gz", ".ko.zst")


def module_name(text: str) -> str:
    """Return the name under which the kernel knows a module: underscores, no directory, no suffix."""
    return text.rpartition("/")[2].partition(".ko")[0].replace("-", "_")


@dataclass(frozen=True, slots=True)
class Module:
    """One module, unpacked and read."""

    name: str
    data: bytes
    depends: tuple[str, ...]
    """Modules whose symbols it uses."""
    soft_pre: tuple[str, ...]
    """Modules or aliases that it would like to be loaded before it."""
    aliases: tuple[str, ...]


def read_module(name: str, data: bytes) -> Module:
    """Read a module's own account of itself. Raises GuestUnavailable if this is no kernel module."""
    info = elf.section(data, b".modinfo")
    if info is None:
        raise GuestUnavailable(f"{name} is not a kernel module", "it has no .modinfo section")
    depends: list[str] = []
    soft: list[str] = []
    aliases: list[str] = []
    for entry in info.split(b"\0"):
        key, _, value = entry.decode("utf-8", "replace").partition("=")
        if key == "depends":
            depends += [module_name(word) for word in value.split(",") if word]
        elif key == "softdep":
            soft += _soft_pre(value)
        elif key == "alias":
            aliases.append(value)
    return Module(name, data, tuple(depends), tuple(soft), tuple(aliases))


def _soft_pre(text: str) -> list[str]:
    """Return the words after ``pre:`` in a softdep line, up to ``post:``."""
    before: list[str] = []
    current: list[str] | None = None
    for word in text.split():
        if word == "pre:":
            current = before
        elif word == "post:":
            current = None
        elif current is not None:
            current.append(module_name(word))
    return before


class ModuleTree:
    """The modules of one kernel, read as they are asked for."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._paths = {module_name(path.name): path for path in _walk(directory)}
        self._read: dict[str, Module] = {}
        self.builtin = frozenset(_builtin(directory))

    def __contains__(self, name: str) -> bool:
        return module_name(name) in self._paths

    def has(self, name: str) -> bool:
        """Tell whether the kernel can do this at all: as a module, or built in."""
        return module_name(name) in self._paths or module_name(name) in self.builtin

    def get(self, name: str) -> Module:
        """Return one module, unpacked. Raises KeyError if there is none of that name."""
        name = module_name(name)
        if name not in self._read:
            path = self._paths[name]
            data = path.read_bytes()
            if path.suffix != ".ko":
                data = decompress(data)
            self._read[name] = read_module(name, data)
        return self._read[name]

    def closure(self, names: Iterable[str]) -> list[Module]:
        """Return the modules of these names and all they need, dependencies first.

        Names that the kernel does not have, or has built in, are passed over: kernels are configured
        differently, and the guest does without.
        """
        ordered: dict[str, Module] = {}

        def visit(name: str, above: tuple[str, ...]) -> None:
            if name in ordered or name in above or name not in self._paths:
                return
            module = self.get(name)
            for needed in (*module.depends, *module.soft_pre):
                visit(needed, (*above, name))
            ordered[name] = module

        for name in names:
            visit(module_name(name), ())
        return list(ordered.values())


def without_signature(data: bytes) -> bytes:
    """Return a module without the signature that its builder appended.

    A kernel that does not insist on signatures hashes the module all the same where there is one, which
    costs more than the rest of loading it under emulation. The format is ``struct module_signature`` of the
    kernel's ``kernel/module_signature.c``: signer, key and signature, their lengths, a magic line.
    """
    if not data.endswith(_SIGNED):
        return data
    trailer = len(data) - len(_SIGNED) - _SIGNATURE.size
    if trailer < 0:
        return data
    signer, key, signature = _SIGNATURE.unpack_from(data, trailer)
    end = trailer - signer - key - signature
    return data[:end] if end > 0 else data


def modules_dep(modules: list[Module], path: Callable[[str], str]) -> str:
    """Return ``modules.dep``: for each module all it needs, nearest first, as modprobe wants it.

    ``path`` tells where a module lies.
    """
    known = {module.name: module for module in modules}

    def needs(name: str, seen: dict[str, None]) -> dict[str, None]:
        module = known[name]
        for other in (*module.depends, *module.soft_pre):
            # A pre-softdep is written as a dependency, because busybox's modprobe knows no softdeps.
            if other in known and other not in seen and other != name:
                needs(other, seen)
                seen[other] = None
        return seen

    lines = []
    for module in modules:
        after = [path(name) for name in reversed(needs(module.name, {}))]
        lines.append(" ".join([f"{path(module.name)}:", *after]))
    return "\n".join(lines) + "\n"


def modules_alias(modules: Iterable[Module]) -> str:
    """Return ``modules.alias``, by which the kernel's requests and devices find their drivers."""
    lines = [f"alias {alias} {module.name}" for module in modules for alias in module.aliases]
    return "".join(f"{line}\n" for line in lines)


def _walk(directory: Path) -> Iterator[Path]:
    for root, _dirs, files in os.walk(directory):
        for name in files:
            if name.endswith(_SUFFIXES):
                yield Path(root, name)


def _builtin(directory: Path) -> Iterator[str]:
    try:
        text = (directory / "modules.builtin").read_text(encoding="utf-8")
    except OSError:
        return
    for line in text.splitlines():
        yield module_name(line)
