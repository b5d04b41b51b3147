"""Answers of probes, kept as small JSON files in the cache.

A file that is missing, damaged or about something else is no answer; a directory that cannot be written is
no error. Nothing here may make a probe's result worse than not having a cache.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

DIRECTORY = "probes"


def load(cache: Path, name: str, key: dict[str, Any]) -> dict[str, Any] | None:
    """Return what was stored under that name for exactly that key, or None."""
    try:
        # open() instead of pathlib: this runs at the start of every suite.
        with open(f"{cache}/{DIRECTORY}/{name}.json", "rb") as file:  # noqa: PTH123
            stored = json.loads(file.read())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(stored, dict) or stored.get("key") != key:
        return None
    answer = stored.get("answer")
    return answer if isinstance(answer, dict) else None


def store(cache: Path, name: str, key: dict[str, Any], answer: dict[str, Any]) -> None:
    """Keep an answer; readers see the old file or the new one, never a half."""
    directory = cache / DIRECTORY
    target = directory / f"{name}.json"
    # The pid keeps writers of different sessions apart: the last one to rename wins, whole.
    temporary = directory / f".{name}.{os.getpid()}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps({"key": key, "answer": answer}, indent=1))
        temporary.replace(target)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
