"""Properties of devices as a test gives them: QEMU's own names, and values that JSON can carry."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pytest_qemuvm.errors import SpecError
from pytest_qemuvm.spec.names import checked_argument

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

PropertyValue = bool | int | str

PLACE = ("driver", "id", "bus", "addr")
"""What says which device it is and where it sits: the harness decides that of every device."""

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\[\]-]*")
_LEAST, _LARGEST = -(1 << 63), (1 << 64) - 1


class Properties(Mapping[str, PropertyValue]):
    """A mapping that cannot be changed, so that a spec that has it stays a value with a hash."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, PropertyValue] | None = None) -> None:
        self._items = dict(items or {})

    def __getitem__(self, key: str) -> PropertyValue:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __repr__(self) -> str:
        return repr(self._items)


NO_PROPERTIES = Properties()


def device_properties(
    value: object, spec: str, reserved: Collection[str] = (), fields: Collection[str] = ()
) -> Properties:
    """Return the properties of a device of that ``spec``, checked as far as that goes without asking QEMU.

    ``reserved`` are those that the harness sets itself, besides its place; ``fields`` those of them that the
    spec has a field for. Raises SpecError.
    """
    if not isinstance(value, Mapping):
        raise SpecError(f"properties of {spec}: {value!r} is not a mapping of names to values")
    for key, given in value.items():
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise SpecError(f"properties of {spec}: {key!r} is not the name of a property")
        if key in PLACE or key in reserved:
            raise SpecError(
                f"properties of {spec}: {key!r} is set by the harness",
                hint=f"write {spec}({key}=...)" if key in fields else "leave it out",
            )
        _check(given, f"properties of {spec}: {key}")
    return value if isinstance(value, Properties) else Properties(value)


def _check(value: object, what: str) -> None:
    if isinstance(value, str):
        checked_argument(value, what)
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise SpecError(f"{what}: {value!r} is not UTF-8") from error
    elif not isinstance(value, (bool, int)):
        raise SpecError(f"{what}: {value!r} is no value that it can have", hint="True, False, an int, a str")
    elif not _LEAST <= value <= _LARGEST:
        raise SpecError(f"{what}: {value} does not fit into 64 bits")
