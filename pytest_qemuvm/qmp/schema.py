"""QEMU's description of its own commands, and the check of arguments against it.

Pure. The description is what ``query-qmp-schema`` answers: types under numbers that refer to one another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_qemuvm.errors import InvalidArguments, UnknownCommand, closest, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

OPEN_ENDED = frozenset({"device_add"})
"""Commands that take more arguments than the schema says: the properties of the device."""

_REPORTED = ("deprecated", "unstable")


class Remark(NamedTuple):
    """Something of QEMU's that a call uses and that may be gone, or another, in the next version."""

    feature: str
    """``deprecated`` or ``unstable``."""
    path: str
    """Where it stands: the command's name, or the path of an argument."""


class _Member(NamedTuple):
    type: str
    required: bool
    features: tuple[str, ...]


class Schema:
    """The commands of one QEMU, with the types of their arguments.

    ``entries`` is the reply to ``query-qmp-schema``; a ValueError where it is not one.
    """

    def __init__(self, entries: Iterable[Mapping[str, Any]]) -> None:
        try:
            self._types = {entry["name"]: entry for entry in entries}
            self._commands = {
                name: entry for name, entry in self._types.items() if entry["meta-type"] == "command"
            }
        except (TypeError, KeyError) as error:
            raise ValueError("not QEMU's description of its commands") from error
        if not self._commands:
            raise ValueError("a description of no commands")
        self._members: dict[str, dict[str, _Member]] = {}

    @property
    def types(self) -> Mapping[str, Mapping[str, Any]]:
        """QEMU's entries by name: commands, events, and the types that these refer to."""
        return self._types

    @property
    def commands(self) -> frozenset[str]:
        """The names of all commands."""
        return frozenset(self._commands)

    def check(self, command: str, arguments: Mapping[str, Any]) -> list[Remark]:
        """Return what is remarkable about a call that QEMU takes.

        Raises UnknownCommand, or InvalidArguments with the path of what is wrong.
        """
        entry = self._commands.get(command)
        if entry is None:
            near = closest(command, self._commands)
            raise UnknownCommand(
                f"QEMU has no command {command!r}", hint=_meant(near) if near else None, suggestions=near
            )
        remarks = [Remark(feature, command) for feature in _noted(entry)]
        # Most calls have neither arguments nor anything to remark.
        if arguments or self._types[entry["arg-type"]]["members"]:
            self._object(arguments, entry["arg-type"], "arguments", remarks, open_=command in OPEN_ENDED)
        return remarks

    def strings(self, command: str) -> Iterator[tuple[str, ...]]:
        """Yield the way to each argument of a command that is a str.

        Its parts are names of members, ``[]`` for the elements of a list, ``TAG=CASE`` for a variant.
        """
        yield from self._strings(self._commands[command]["arg-type"], (), frozenset())

    def _strings(self, name: str, way: tuple[str, ...], seen: frozenset[str]) -> Iterator[tuple[str, ...]]:
        entry = self._types[name]
        if name in seen:
            return
        seen |= {name}
        kind = entry["meta-type"]
        if kind == "builtin" and entry["json-type"] == "string":
            yield way
        elif kind == "array":
            yield from self._strings(entry["element-type"], (*way, "[]"), seen)
        elif kind == "alternate":
            for member in entry["members"]:
                yield from self._strings(member["type"], way, seen)
        elif kind == "object":
            for member in entry["members"]:
                yield from self._strings(member["type"], (*way, member["name"]), seen)
            for variant in entry.get("variants", ()):
                case = f"{entry['tag']}={variant['case']}"
                yield from self._strings(variant["type"], (*way, case), seen)

    # The check of one value, by the kind of its type

    def _value(self, value: object, name: str, path: str, remarks: list[Remark]) -> None:
        entry = self._types[name]
        _KINDS[entry["meta-type"]](self, value, entry, path, remarks)

    def _builtin(self, value: object, entry: Mapping[str, Any], path: str, _remarks: list[Remark]) -> None:
        wanted = entry["json-type"]
        if wanted != "value" and not _IS[wanted](value):
            raise _wrong(path, _NAMES[wanted], value)

    def _enum(self, value: object, entry: Mapping[str, Any], path: str, remarks: list[Remark]) -> None:
        if not isinstance(value, str):
            raise _wrong(path, "a str", value)
        if value not in entry["values"]:
            raise InvalidArguments(
                f"{path} cannot be {value!r}", hint=nearest(value, entry["values"]), path=path
            )
        for member in entry.get("members", ()):
            if member["name"] == value:
                remarks += [Remark(feature, f"{path}={value}") for feature in _noted(member)]

    def _array(self, value: object, entry: Mapping[str, Any], path: str, remarks: list[Remark]) -> None:
        if not isinstance(value, (list, tuple)):
            raise _wrong(path, "a list", value)
        for index, element in enumerate(value):
            self._value(element, entry["element-type"], f"{path}[{index}]", remarks)

    def _alternate(self, value: object, entry: Mapping[str, Any], path: str, remarks: list[Remark]) -> None:
        fitting = [member["type"] for member in entry["members"] if self._may_be(value, member["type"])]
        if not fitting:
            kinds = " or ".join(sorted({self._describe(member["type"]) for member in entry["members"]}))
            raise _wrong(path, kinds, value)
        wrong: InvalidArguments | None = None
        for name in fitting:
            try:
                return self._value(value, name, path, remarks)
            except InvalidArguments as error:
                wrong = error
        assert wrong is not None
        raise wrong

    def _plain_object(
        self, value: object, entry: Mapping[str, Any], path: str, remarks: list[Remark]
    ) -> None:
        self._object(value, entry["name"], path, remarks)

    def _object(
        self, value: object, name: str, path: str, remarks: list[Remark], *, open_: bool = False
    ) -> None:
        if not isinstance(value, dict):
            raise _wrong(path, "a dict", value)
        members = self._members_of(name)
        entry = self._types[name]
        if "tag" in entry:
            members, said = self._variant(value, entry, members, path, remarks)
            open_ = open_ or not said  # which default it has, the schema does not say
        for key, inner in value.items():
            member = members.get(key)
            if member is not None:
                remarks += [Remark(feature, f"{path}.{key}") for feature in member.features]
                if key != entry.get("tag"):
                    self._value(inner, member.type, f"{path}.{key}", remarks)
            elif not open_:
                raise InvalidArguments(
                    f"QEMU does not know {path}.{key}",
                    hint=nearest(str(key), members) if members else "there are no arguments",
                    path=f"{path}.{key}",
                )
        for key, member in members.items():
            if member.required and key not in value:
                raise _missing(f"{path}.{key}")

    def _variant(
        self,
        value: Mapping[str, Any],
        entry: Mapping[str, Any],
        members: dict[str, _Member],
        path: str,
        remarks: list[Remark],
    ) -> tuple[dict[str, _Member], bool]:
        """Return the members that a union has by the value of its tag, and whether it has a tag at all."""
        tag: str = entry["tag"]
        if tag not in value:
            if members[tag].required:
                raise _missing(f"{path}.{tag}")
            return members, False
        self._value(value[tag], members[tag].type, f"{path}.{tag}", remarks)
        for variant in entry["variants"]:
            if variant["case"] == value[tag]:
                return {**members, **self._members_of(variant["type"])}, True
        return members, True

    def _members_of(self, name: str) -> dict[str, _Member]:
        known = self._members.get(name)
        if known is None:
            known = self._members[name] = {
                member["name"]: _Member(member["type"], "default" not in member, _noted(member))
                for member in self._types[name]["members"]
            }
        return known

    def _may_be(self, value: object, name: str) -> bool:
        return _IS[self._json_type(name)](value)

    def _json_type(self, name: str) -> str:
        entry = self._types[name]
        kind: str = entry["meta-type"]
        return entry["json-type"] if kind == "builtin" else "string" if kind == "enum" else kind

    def _describe(self, name: str) -> str:
        return _NAMES[self._json_type(name)]


_KINDS: Mapping[str, Callable[[Schema, object, Mapping[str, Any], str, list[Remark]], None]] = {
    "builtin": Schema._builtin,  # noqa: SLF001  # the table of its own methods
    "enum": Schema._enum,  # noqa: SLF001
    "array": Schema._array,  # noqa: SLF001
    "alternate": Schema._alternate,  # noqa: SLF001
    "object": Schema._plain_object,  # noqa: SLF001
}
_IS: Mapping[str, Callable[[object], bool]] = {
    "string": lambda value: isinstance(value, str),
    "int": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "value": lambda _value: True,
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, (list, tuple)),
}
_NAMES = {
    "string": "a str",
    "int": "an int",
    "number": "a number",
    "boolean": "True or False",
    "null": "None",
    "value": "any value",
    "object": "a dict",
    "array": "a list",
}


def _noted(entry: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(feature for feature in entry.get("features", ()) if feature in _REPORTED)


def _wrong(path: str, wanted: str, value: object) -> InvalidArguments:
    # Not the value itself, which may be a password.
    return InvalidArguments(f"{path} is {wanted}, not of type {type(value).__name__}", path=path)


def _missing(path: str) -> InvalidArguments:
    return InvalidArguments(f"{path} is missing", path=path)


def _meant(near: Iterable[str]) -> str:
    return f"did you mean {' or '.join(repr(name) for name in near)}?"
