"""What can be typed next at the prompt, by the schema of the QEMU that is listening."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


class Completion:
    """Completes names of commands, of arguments and of their values; ``types`` are ``Schema.types``."""

    def __init__(self, types: Mapping[str, Mapping[str, Any]]) -> None:
        self._types = types

    def complete(self, before: str, text: str) -> list[str]:
        """Return what the last word, begun with ``text``, may become; ``before`` is the line up to it."""
        words = before.split()
        if not words:
            names = (name for name, entry in self._types.items() if entry["meta-type"] == "command")
            return sorted(f"{name} " for name in names if name.startswith(text))
        return sorted({word for word in self._arguments(words[0], text) if word.startswith(text)})

    def _arguments(self, command: str, text: str) -> Iterator[str]:
        entry = self._types.get(command, {})
        if entry.get("meta-type") != "command":
            return
        name, equals, _ = text.partition("=")
        *parents, last = name.split(".")
        kind = entry["arg-type"]
        for parent in parents:
            kind = self._members(kind).get(parent, "")
        members = self._members(kind)
        if equals:
            yield from (f"{name}={value} " for value in self._values(members.get(last, "")))
            return
        above = "".join(f"{parent}." for parent in parents)
        for member, member_kind in members.items():
            # What has members itself is gone into.
            yield f"{above}{member}{'.' if self._members(member_kind) else '='}"

    def _members(self, kind: str) -> dict[str, str]:
        """Return the members of an object type, also those that it has in some variant only."""
        entry = self._types.get(kind, {})
        if entry.get("meta-type") == "alternate":
            several = [self._members(member["type"]) for member in entry["members"]]
        elif entry.get("meta-type") == "object":
            several = [{member["name"]: member["type"] for member in entry["members"]}]
            several += [self._members(variant["type"]) for variant in entry.get("variants", ())]
        else:
            several = []
        return {name: kind for members in several for name, kind in members.items()}

    def _values(self, kind: str) -> Iterable[str]:
        entry = self._types.get(kind, {})
        if entry.get("meta-type") == "enum":
            values: list[str] = [member["name"] for member in entry.get("members", ())]
            return values or entry["values"]
        return ("true", "false") if entry.get("json-type") == "boolean" else ()
