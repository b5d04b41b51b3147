"""What repeats something that was left to chance."""

from __future__ import annotations

import secrets

from pytest_qemuvm.errors import SpecError

_BITS = 32
"""So few that a seed can be typed."""


def checked_seed(seed: object, where: str = "") -> int | None:
    """Return a seed, or None; ``where`` begins the error. Raises SpecError for anything else."""
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise SpecError(f"{where}seed={seed!r} is not a whole number")
    return seed


def chosen_seed(seed: int | None) -> int:
    """Return a seed, or one that nobody could have told before where none was given."""
    return secrets.randbits(_BITS) if seed is None else seed
