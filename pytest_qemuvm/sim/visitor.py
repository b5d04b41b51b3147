"""Arguments of a command compared with the recorded schema, in the order and the words of QEMU's visitors."""

from __future__ import annotations

from pytest_qemuvm.sim.words import QmpRefusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_NAMES = {"int": "integer", "boolean": "boolean", "string": "string", "number": "number", "null": "null"}


def check(
    recorded: dict[str, Any], arguments: dict[str, Any], unsigned: frozenset[str] = frozenset()
) -> None:
    """Raise QmpRefusal unless ``arguments`` are what the command takes.

    ``unsigned`` are members that are, which the schema does not tell, and for which QEMU has other words.
    """
    _Visit(recorded["types"], unsigned).struct(recorded["root"], arguments, "")


def typed(recorded: dict[str, Any], arguments: dict[str, Any]) -> None:
    """Turn texts of a ``key=value`` list into what the schema wants, in place. Raises QmpRefusal.

    Dots in keys lead into what is nested.
    """
    for key in list(arguments):
        if "." in key:
            value = arguments.pop(key)
            *above, last = key.split(".")
            into = arguments
            for word in above:
                into = into.setdefault(word, {})
            into[last] = value
    _type_members(recorded["types"], recorded["root"], arguments)


def _type_members(types: dict[str, Any], name: str, value: dict[str, Any]) -> None:
    kind = types[name]
    for member in kind.get("members", ()):
        key = member["name"]
        if key in value:
            value[key] = _from_text(types, member["type"], key, value[key])
    for variant in kind.get("variants", ()):
        if variant["case"] == value.get(kind["tag"]):
            _type_members(types, variant["type"], value)


def _from_text(types: dict[str, Any], name: str, key: str, value: Any) -> Any:
    kind = types[name]
    if isinstance(value, dict):
        below = [member["type"] for member in kind["members"]] if kind["meta-type"] == "alternate" else [name]
        for each in below:
            if types[each]["meta-type"] == "object":
                _type_members(types, each, value)
        return value
    if kind["meta-type"] == "array":
        return [{"str": value}] if types[kind["element-type"]]["meta-type"] == "object" else [value]
    if kind.get("json-type") == "boolean":
        if value not in {"on", "off"}:
            raise QmpRefusal(f"Parameter '{key}' expects 'on' or 'off'")
        return value == "on"
    if kind.get("json-type") == "int":
        from pytest_qemuvm.sim.objects import size

        try:
            return size(value)
        except QmpRefusal:
            raise QmpRefusal(f"Parameter '{key}' expects a number") from None
    return value


class _Visit:
    def __init__(self, types: dict[str, Any], unsigned: frozenset[str]) -> None:
        self._types = types
        self._unsigned = unsigned

    def any(self, name: str, value: Any, path: str) -> None:
        kind = self._types[name]
        match kind["meta-type"]:
            case "builtin":
                self._builtin(kind["json-type"], value, path)
            case "enum":
                self._enum(kind["values"], value, path)
            case "array":
                _must_be(list, value, path, "array")
                for number, item in enumerate(value):
                    self.any(kind["element-type"], item, f"{path}[{number}]")
            case "object":
                _must_be(dict, value, path, "object")
                self.struct(name, value, path)
            case "alternate":
                self._alternate(kind, value, path)

    def _builtin(self, json_type: str, value: Any, path: str) -> None:
        if _fits(json_type, value):
            return
        if json_type == "int" and path in self._unsigned:
            raise QmpRefusal(f"Parameter '{path}' expects uint64")
        raise _wrong(path, _NAMES.get(json_type, json_type))

    def _enum(self, values: list[str], value: Any, path: str) -> None:
        _must_be(str, value, path, "string")
        if value not in values:
            last = path.rpartition(".")[2]
            last = "null" if last.endswith("]") else last
            raise QmpRefusal(f"Parameter '{last}' does not accept value '{value}'")

    def struct(self, name: str, value: dict[str, Any], path: str) -> None:
        """Visit an object: its members in order, those of its variant, and what is left over."""
        known: set[str] = set()
        self._members(name, value, path, known)
        for key in value:
            if key not in known:
                raise QmpRefusal(f"Parameter '{_below(path, key)}' is unexpected")

    def _members(self, name: str, value: dict[str, Any], path: str, known: set[str]) -> None:
        kind = self._types[name]
        for member in kind["members"]:
            key = member["name"]
            known.add(key)
            if key in value:
                self.any(member["type"], value[key], _below(path, key))
            elif "default" not in member:
                raise QmpRefusal(f"Parameter '{_below(path, key)}' is missing")
        if "tag" in kind and kind["tag"] in value:
            for variant in kind["variants"]:
                if variant["case"] == value[kind["tag"]]:
                    self._members(variant["type"], value, path, known)

    def _alternate(self, kind: dict[str, Any], value: Any, path: str) -> None:
        below = [self._types[member["type"]] for member in kind["members"]]
        for member, candidate in zip(kind["members"], below, strict=True):
            what = candidate["meta-type"]
            if (
                (what == "object" and isinstance(value, dict))
                or (what == "array" and isinstance(value, list))
                or (what == "enum" and isinstance(value, str))
                or (what == "builtin" and _fits(candidate["json-type"], value))
            ):
                self.any(member["type"], value, path)
                return
        last = path.rpartition(".")[2]
        raise QmpRefusal(f"Invalid parameter type for '{last}', expected: {_alternate_name(below)}")


def _alternate_name(below: list[dict[str, Any]]) -> str:
    """Return the name of an alternate, which the schema does not tell: by what it may be."""
    kinds = {member.get("json-type", member["meta-type"]) for member in below}
    if "variants" in "".join(key for member in below for key in member):
        return "BlockdevRefOrNull" if "null" in kinds else "BlockdevRef"
    if kinds == {"string", "null"}:
        return "StrOrNull"
    return "Qcow2OverlapChecks" if "enum" in kinds else "BlockDirtyBitmapOrStr"


def _fits(json_type: str, value: Any) -> bool:
    match json_type:
        case "int":
            return isinstance(value, int) and not isinstance(value, bool)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "boolean":
            return isinstance(value, bool)
        case "string":
            return isinstance(value, str)
        case "null":
            return value is None
    return True


def _must_be(kind: type, value: Any, path: str, expected: str) -> None:
    if not isinstance(value, kind):
        raise _wrong(path, expected)


def _below(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _wrong(path: str, expected: str) -> QmpRefusal:
    return QmpRefusal(f"Invalid parameter type for '{path}', expected: {expected}")
