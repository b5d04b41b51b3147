"""Reading ``qemuvm.yaml``: what is wrong in it is said with file, line and the nearest right word."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from pytest_qemuvm.errors import SettingsError, SpecError, nearest
from pytest_qemuvm.spec.devices import DeviceSpec, DiskSpec, DriverSpec, NicSpec, SerialSpec
from pytest_qemuvm.spec.names import checked_name
from pytest_qemuvm.spec.suite import Suite
from pytest_qemuvm.spec.template import OWN_KEYS, TEMPLATE_KEYS, TemplateSpec
from pytest_qemuvm.spec.vm import SPEC_KEYS, VMSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BUILT_IN = ("bare", "tiny")

_SECTIONS = ("vms", "templates", "disks")
_DISK_KEYS = ("size", "format", "template", "serial")
_DEVICES: dict[str, type[DeviceSpec]] = {
    "disks": DiskSpec,
    "nics": NicSpec,
    "serials": SerialSpec,
    "devices": DriverSpec,
}
_VM_KEYS = tuple(key for key in SPEC_KEYS if key != "needs")
_PATHS = ("image", "kernel", "path")
_TEXT = (
    *("append", "base", "driver", "format", "image", "kernel"),
    *("mac", "machine", "path", "serial", "template"),
)
_SWITCHES = ("outward", "read_only")


class _Entry(NamedTuple):
    """A key of a mapping, its value, and the line where it stands."""

    key: str
    value: yaml.Node
    line: int


def parse_suite(text: str, path: Path) -> Suite:
    """Read a suite's file; relative paths in it start from its own directory.

    Raises SettingsError, naming file and line, for unknown keys, wrong types, and values that a spec refuses.
    """
    return _Reader(text, path).suite()


class _Reader:
    """Walks the nodes of the document, which know their lines; only values become objects."""

    def __init__(self, text: str, path: Path) -> None:
        self._path = path
        self._text = text
        self._loader: yaml.SafeLoader

    def suite(self) -> Suite:
        found: dict[str, dict[str, Any]] = {section: {} for section in _SECTIONS}
        readers: dict[str, Callable[[_Entry], Any]] = {
            "vms": self._vm,
            "templates": self._template,
            "disks": self._disk,
        }
        try:
            self._loader = yaml.SafeLoader(self._text)
            root = self._loader.get_single_node()
            if root is not None:
                for section in self._entries(root, _SECTIONS, "a section"):
                    for entry in self._entries(section.value, None, section.key[:-1]):
                        found[section.key][entry.key] = readers[section.key](entry)
                self._check_bases(found["templates"])
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise self._error(line, f"{error.problem or error.context}") from error
        except yaml.YAMLError as error:
            raise self._error(1, str(error)) from error
        return Suite(**found)

    def _vm(self, entry: _Entry) -> dict[str, Any]:
        return self._spec_keywords(self._entries(entry.value, _VM_KEYS, "a key of a VM"))

    def _disk(self, entry: _Entry) -> dict[str, Any]:
        entries = self._entries(entry.value, _DISK_KEYS, "a key of a disk")
        keywords = {}
        for found in entries:
            keywords[found.key] = self._scalar(found)
            if found.key != "template":
                with self._at(found.line):
                    DiskSpec(**{"size": "64M", found.key: keywords[found.key]})
        return keywords

    def _template(self, entry: _Entry) -> TemplateSpec:
        entries = self._entries(entry.value, TEMPLATE_KEYS, "a key of a template")
        if entry.key in BUILT_IN:
            raise self._error(entry.line, f"the template {entry.key!r} is built in")
        own: dict[str, Any] = {"where": f"{self._path}:{entry.line}"}
        rest = []
        for found in entries:
            if found.key == "setup":
                own["setup"] = self._commands(found)
            elif found.key in OWN_KEYS:
                own[found.key] = self._scalar(found)
            else:
                rest.append(found)
        keywords = self._spec_keywords(rest)
        with self._at(entry.line):
            return TemplateSpec(keywords=keywords, **own)

    def _spec_keywords(self, entries: list[_Entry]) -> dict[str, Any]:
        """Read keywords of a VM's spec; each is tried by itself, so that its own line is named."""
        keywords: dict[str, Any] = {}
        for entry in entries:
            kind = _DEVICES.get(entry.key)
            keywords[entry.key] = self._devices(entry, kind) if kind else self._scalar(entry)
        for entry in entries:
            # An image and its format make sense together only.
            pair = ("image", "format") if entry.key in ("image", "format") else (entry.key,)
            with self._at(entry.line):
                tried = {key: keywords[key] for key in pair if key in keywords}
                VMSpec().with_keywords(tried, str(self._path))
        return keywords

    def _devices(self, entry: _Entry, kind: type[DeviceSpec]) -> tuple[DeviceSpec, ...]:
        node = entry.value
        if not isinstance(node, yaml.SequenceNode):
            raise self._error(
                entry.line, f"{entry.key} is not a list", f"write '- ' before each {kind.__name__}"
            )
        keys = tuple(field.name for field in fields(kind) if field.name != "handle")  # type: ignore[arg-type]  # all are dataclasses
        devices = []
        for item in node.value:
            entries = self._entries(item, keys, f"a key of {kind.__name__}")
            keywords = {
                found.key: self._properties(found) if found.key == "properties" else self._scalar(found)
                for found in entries
            }
            with self._at(item.start_mark.line + 1):
                devices.append(kind(**keywords))
        return tuple(devices)

    def _properties(self, entry: _Entry) -> dict[str, Any]:
        """Return a device's properties; they are QEMU's, so that no name among them has a meaning here."""
        entries = self._entries(entry.value, None, "property")
        return {found.key: self._loader.construct_object(found.value, deep=True) for found in entries}

    def _commands(self, entry: _Entry) -> Any:
        value = self._loader.construct_object(entry.value, deep=True)
        commands = value if isinstance(value, list) else [value]
        if not commands or not all(isinstance(command, str) for command in commands):
            raise self._error(entry.line, "setup is neither a command nor a list of commands")
        return value

    def _scalar(self, entry: _Entry) -> Any:
        """Return a value as Python has it, checked where a spec would take it for granted."""
        value = self._loader.construct_object(entry.value, deep=True)
        if entry.key in _TEXT and not isinstance(value, str):
            raise self._error(entry.line, f"{entry.key}: {value!r} is not text", "put it in quotes")
        if entry.key in _SWITCHES and not isinstance(value, bool):
            raise self._error(entry.line, f"{entry.key}: {value!r} is neither true nor false")
        return str(self._path.parent / value) if entry.key in _PATHS else value

    def _entries(self, node: yaml.Node, known: tuple[str, ...] | None, what: str) -> list[_Entry]:
        """Return a mapping's entries; ``known`` are its keys, or None where they are names of a ``what``."""
        line = node.start_mark.line + 1
        if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null":
            return []
        if not isinstance(node, yaml.MappingNode) or node.tag != "tag:yaml.org,2002:map":
            expected = (
                f"keys are {', '.join(known)}" if known else f"write the name of a {what}, ':' and its keys"
            )
            raise self._error(line, "this is not a mapping", expected)
        self._refuse_twins(node)
        self._loader.flatten_mapping(node)
        found: dict[str, _Entry] = {}
        for key_node, value in node.value:
            line = key_node.start_mark.line + 1
            key = self._loader.construct_object(key_node, deep=True)
            if known is None:
                with self._at(line):
                    checked_name(key, what)
            elif key not in known:
                raise self._error(line, f"{key!r} is not {what}", nearest(str(key), known))
            found[key] = _Entry(key, value, line)
        return list(found.values())

    def _refuse_twins(self, node: yaml.MappingNode) -> None:
        """Refuse a key that is there twice, of which YAML would silently take the last."""
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                line = key.start_mark.line + 1
                if key.value in lines:
                    raise self._error(line, f"{key.value!r} is there already, in line {lines[key.value]}")
                lines[key.value] = line

    def _check_bases(self, templates: dict[str, TemplateSpec]) -> None:
        """Refuse templates that rest on what the file does not know, or on themselves."""
        known = [*BUILT_IN, *templates]
        for name, spec in templates.items():
            seen = [name]
            while (base := str(templates[seen[-1]].base)) not in BUILT_IN:
                if base not in templates:
                    raise SettingsError(f"{spec.where}: no template {base!r}", hint=nearest(base, known))
                if base in seen:
                    raise SettingsError(f"{spec.where}: the template {name!r} rests on itself")
                seen.append(base)

    @contextmanager
    def _at(self, line: int) -> Iterator[None]:
        """Name file and line in a spec's own complaint."""
        try:
            yield
        except SpecError as error:
            raise self._error(line, error.brief, error.hint) from error
        except TypeError as error:  # a field without a default was left out, or is of a type nobody foresaw
            raise self._error(line, str(error)) from error

    def _error(self, line: int, brief: str, hint: str | None = None) -> SettingsError:
        return SettingsError(f"{self._path}:{line}: {brief}", hint=hint)
