"""Rules: each is asked about every frame that it concerns, from one line to another."""

from __future__ import annotations

import heapq
import itertools
import math
import random
import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from pytest_qemuvm.spec.seeds import chosen_seed

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from pytest_qemuvm.host.switch.fabric import Fabric
    from pytest_qemuvm.host.switch.jack import Jack
    from pytest_qemuvm.spec.segment import Impairment

WAITING_BYTES = 128 << 10
"""What may wait for its turn where a bandwidth is given, for each line: about what a router has."""
UNDER_WAY_BYTES = 32 << 20
"""What a rule may hold in all: a delay times what comes in that time."""
_NEVER = math.inf
_THOUSAND = 1000
_ROUNDING = 1e-6
"""What a share may lose where it is multiplied."""


class Stage:
    """A rule. Everything but reading the counts runs on the reactor's thread."""

    def __init__(self) -> None:
        self.hits = 0
        """Frames that would have fared otherwise without the rule."""
        self.counts: Counter[str] = Counter()

    def concerns(self, source: Jack, target: Jack) -> bool:
        """Return whether it has a say about frames from the one to the other."""
        raise NotImplementedError

    def admit(self, frame: bytes, source: Jack, target: Jack) -> bool:
        """Return whether the frame may go on now; if not, it is dropped or kept."""
        del frame, source
        self._hit("dropped")
        target.drop("rule")
        return False

    def let_go(self) -> None:
        """Have all go on that was kept, at once and in order."""

    def forget(self) -> None:
        """Drop all that was kept."""

    def _hit(self, what: str) -> None:
        self.hits += 1
        self.counts[what] += 1


class Partition(Stage):
    """Drops what goes from one side to another; who is on no side talks to everybody."""

    def __init__(self, sides: Sequence[Collection[Jack]]) -> None:
        super().__init__()
        self._side = {jack: number for number, side in enumerate(sides) for jack in side}

    def concerns(self, source: Jack, target: Jack) -> bool:
        """Return whether the two are on different sides."""
        one, other = self._side.get(source), self._side.get(target)
        return one is not None and other is not None and one != other


class Block(Stage):
    """Drops what goes one way; None is everybody."""

    def __init__(self, source: Collection[Jack] | None, target: Collection[Jack] | None) -> None:
        super().__init__()
        self._source = None if source is None else frozenset(source)
        self._target = None if target is None else frozenset(target)

    def concerns(self, source: Jack, target: Jack) -> bool:
        """Return whether that is the way."""
        return (self._source is None or source in self._source) and (
            self._target is None or target in self._target
        )


class _Lots:
    """Hit a share of what is drawn for: nobody knows which, and so many of each thousand.

    Dice would do it too, but of a thousand frames of which a tenth is to be lost they lose 80 or 120.
    """

    def __init__(self, chance: random.Random, share: float) -> None:
        self._chance = chance
        self._share = share
        self._left = 0
        """How many lots are left of the present thousand, and how many of them hit."""
        self._hits = 0
        self._owed = 0.0

    def draw(self) -> bool:
        """Draw the next lot."""
        if not self._left:
            self._left = _THOUSAND
            self._owed += self._share * _THOUSAND
            self._hits = int(self._owed + _ROUNDING)
            self._owed -= self._hits
        hit = self._chance.random() * self._left < self._hits
        self._left -= 1
        self._hits -= hit
        return hit


class _Line:
    """What a rule knows of one way from one port to another."""

    def __init__(self, source: Jack, target: Jack, seed: int, what: Impairment) -> None:
        self.source, self.target = source, target
        # Each its own: what another line carries in between changes nothing here.
        self.random = random.Random(f"{seed}/{source.label}/{target.label}")  # noqa: S311  # dice, no secrets
        self.lost = _Lots(self.random, what.loss)
        self.doubled = _Lots(self.random, what.duplicate)
        self.overtaking = _Lots(self.random, what.reorder)
        self.free = 0.0
        """When the last byte will have been put onto the line."""
        self.last = 0.0
        """When the last frame that keeps to the order will come out of it."""
        self.waiting = 0
        """How many frames have not come out yet."""


class _UnderWay(NamedTuple):
    """A frame that comes out later; the number keeps those of one moment in order."""

    moment: float
    number: int
    line: _Line
    frame: bytes


class Impaired(Block):
    """Loses, delays, doubles and slows down what goes one way."""

    def __init__(
        self,
        fabric: Fabric,
        impairment: Impairment,
        source: Collection[Jack] | None,
        target: Collection[Jack] | None,
    ) -> None:
        super().__init__(source, target)
        self._fabric = fabric
        self._impairment = impairment
        self.seed = chosen_seed(impairment.seed)
        self._lines: dict[tuple[Jack, Jack], _Line] = {}
        self._under_way: list[_UnderWay] = []
        self._numbers = itertools.count()
        self._held = 0
        self._armed = _NEVER

    def admit(self, frame: bytes, source: Jack, target: Jack) -> bool:
        """Return whether the frame goes on unharmed; whatever else happens to it is done here."""
        line = self._lines.get((source, target))
        if line is None:
            line = self._lines[source, target] = _Line(source, target, self.seed, self._impairment)
        what, now = self._impairment, time.monotonic()
        if what.loss and line.lost.draw():
            self._hit("lost")
            target.drop("rule")
            return False
        copies = 1
        if what.duplicate and line.doubled.draw():
            copies = 2
            self.counts["duplicated"] += 1
        elif not what.delay and what.bandwidth is None:
            return True
        self.hits += 1
        for _ in range(copies):
            moment = self._moment(line, len(frame), now)
            if moment <= now:
                self._fabric.resume(self, source, target, frame)
            elif moment < _NEVER:
                self._keep(_UnderWay(moment, next(self._numbers), line, frame))
        return False

    def let_go(self) -> None:
        """Have all go on that is under way, at once and in order."""
        self._release(_NEVER)

    def forget(self) -> None:
        """Drop all that is under way."""
        self._under_way.clear()
        self._held = 0

    def _moment(self, line: _Line, size: int, now: float) -> float:
        """Return when the frame comes out of the line: now, later, or never."""
        what = self._impairment
        out = now
        if what.bandwidth is not None:
            waits = max(0.0, line.free - now)
            if waits and waits * what.bandwidth + size > WAITING_BYTES:
                return self._overflow(line)
            # A line that is free carries the next frame in its own time, too.
            out = line.free = now + waits + size / what.bandwidth
            self.counts["slowed"] += 1
        if what.delay:
            if what.reorder and line.overtaking.draw():
                self.counts["reordered"] += 1
                return out
            out += what.delay
            if what.jitter:
                out += line.random.uniform(-what.jitter, what.jitter)
            self.counts["delayed"] += 1
        if line.waiting:  # what is due may not have left yet
            out = max(out, line.last, math.nextafter(now, _NEVER))
        if self._held + size > UNDER_WAY_BYTES:
            return self._overflow(line)
        line.last = out
        return out

    def _overflow(self, line: _Line) -> float:
        self.counts["overflowed"] += 1
        line.target.drop("rule")
        return _NEVER

    def _keep(self, under_way: _UnderWay) -> None:
        heapq.heappush(self._under_way, under_way)
        self._held += len(under_way.frame)
        under_way.line.waiting += 1
        self._arm()

    def _arm(self) -> None:
        """Have us called when the first frame comes out, unless we will be called by then."""
        if self._under_way and self._under_way[0].moment < self._armed:
            self._armed = self._under_way[0].moment
            self._fabric.reactor.at(self._armed, self._due)

    def _due(self) -> None:
        now = time.monotonic()
        if self._armed <= now:
            self._armed = _NEVER
        self._release(now)
        self._arm()

    def _release(self, until: float) -> None:
        while self._under_way and self._under_way[0].moment <= until:
            _, _, line, frame = heapq.heappop(self._under_way)
            self._held -= len(frame)
            line.waiting -= 1
            self._fabric.resume(self, line.source, line.target, frame)
