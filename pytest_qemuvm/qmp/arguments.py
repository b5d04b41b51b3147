"""A command's arguments as they go to QEMU, and as they may be shown to people."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pytest_qemuvm.errors import InvalidArguments

if TYPE_CHECKING:
    from collections.abc import Mapping

_SECRETS: Mapping[str, tuple[str, ...]] = {
    "set_password": ("password",),
    "change-vnc-password": ("password",),
    "object-add": ("data", "password"),
    "sev-inject-launch-secret": ("packet-header", "secret"),
    "ringbuf-write": ("data",),
}
"""Arguments whose values are shown nowhere."""


def shown_arguments(command: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the arguments as they may be shown."""
    secrets = _SECRETS.get(command, ())
    if not any(key in arguments for key in secrets):
        return arguments
    return {key: "(not shown)" if key in secrets else value for key, value in arguments.items()}


def encoded_arguments(command: str, arguments: object) -> str:
    """Return the arguments as JSON. Raises InvalidArguments for what is none."""
    if not isinstance(arguments, dict):
        kind = type(arguments).__name__
        raise InvalidArguments(f"the arguments of {command!r} are a dict, not a {kind}", path="arguments")
    for key in arguments:
        if not isinstance(key, str):
            raise InvalidArguments(f"{key!r} is not the name of an argument", path="arguments")
    try:
        # Unescaped, so that what is not Unicode fails here instead of in QEMU's parser.
        text = json.dumps(arguments, allow_nan=False, ensure_ascii=False)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArguments(
            f"{command!r} cannot be sent: its arguments are no JSON", str(error), path="arguments"
        ) from error
    return text
