"""Values of options as ``key=value`` lists, in which a doubled comma stands for one; and as JSON objects."""

from __future__ import annotations

from pytest_qemuvm.sim.words import LaunchRefusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def pieces(text: str) -> list[str]:
    """Return what single commas separate, with doubled ones made single."""
    # An argument cannot have a NUL.
    return [piece.replace("\0", ",") for piece in text.replace(",,", "\0").split(",")]


def key_values(text: str, implied: str | None = None) -> list[tuple[str, str]]:
    """Return keys and values in order; a key may be there twice.

    The first piece is the value of ``implied`` where it has no key. Another without a value is ``on``.
    """
    pairs = []
    for number, piece in enumerate(pieces(text)):
        key, equals, value = piece.partition("=")
        if equals:
            pairs.append((key, value))
        elif number == 0 and implied is not None:
            pairs.append((implied, piece))
        elif piece:
            pairs.append((piece, "on"))
    return pairs


def option(text: str, implied: str | None = None, name: str = "") -> dict[str, Any]:
    """Return the value of an option that takes either form; the last of two equal keys counts.

    ``name`` is the option's, for the message where it is no JSON.
    """
    if text.startswith("{"):
        from pytest_qemuvm.sim.qmpjson import JsonError, parse_one

        try:
            value: dict[str, Any] = parse_one(text)
        except JsonError as error:
            raise LaunchRefusal(f"{name} {text}: {error.desc}") from error
        return value
    return dict(key_values(text, implied))
