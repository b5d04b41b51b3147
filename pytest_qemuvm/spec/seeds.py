"""What repeats something that was left to chance."""

from __future__ import annotations

from pytest_qemuvm.errors import SpecError


def checked_seed(seed: object, where: str = "") -> int | None:
    """Return a seed, or None; ``where`` begins the error. Raises SpecError for anything else."""
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise SpecError(f"{where}seed={seed!r} is not a whole number")
    return seed
