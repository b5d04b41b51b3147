"""What chaos does, and when: made from a seed alone, so that the same seed does the same again. Pure."""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

SHORTEST_GAP, LONGEST_GAP = 0.5, 1.5
"""From one fault to the next, in intervals."""
SHORTEST, LONGEST = 0.5, 2.0
"""How long a fault lasts, in intervals: some last until others have begun."""


@dataclass(frozen=True, slots=True)
class Step:
    """One fault of a schedule. Times are in seconds since its begin."""

    number: int
    """Its place, from 1."""
    at: float
    fault: int
    """Which of the faults, from 0."""
    lasts: float

    @property
    def until(self) -> float:
        """When it heals."""
        return self.at + self.lasts


@dataclass(frozen=True, slots=True)
class Move:
    """Something to be done at a moment of the schedule."""

    at: float
    what: Literal["begin", "heal"]
    step: Step


def steps(seed: int, faults: int, interval: float) -> Iterator[Step]:
    """Yield faults for ever. None of them begins again before it has healed."""
    # Only random() of it: Python promises that numbers of it stay the same from version to version.
    dice = random.Random(seed).random  # noqa: S311  # no secret
    free_at = [0.0] * faults
    now, number = 0.0, 0
    while True:
        number += 1
        now = max(now + interval * _between(SHORTEST_GAP, LONGEST_GAP, dice()), min(free_at))
        free = [index for index, moment in enumerate(free_at) if moment <= now]
        chosen = free[int(dice() * len(free))]
        step = Step(number, now, chosen, interval * _between(SHORTEST, LONGEST, dice()))
        free_at[chosen] = step.until
        yield step


def moves(seed: int, faults: int, interval: float, duration: float = math.inf) -> Iterator[Move]:
    """Yield what is to be done, in order; what lasts longer than ``duration`` heals with its end."""
    lasting: list[tuple[float, int, Step]] = []
    for step in steps(seed, faults, interval):
        begins = step.at < duration
        while lasting and (not begins or lasting[0][0] <= step.at):
            until, _, healed = heapq.heappop(lasting)
            yield Move(min(until, duration), "heal", healed)
        if not begins:
            return
        yield Move(step.at, "begin", step)
        heapq.heappush(lasting, (step.until, step.number, step))


def _between(low: float, high: float, share: float) -> float:
    return low + (high - low) * share
