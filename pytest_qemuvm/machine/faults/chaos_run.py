"""A run of chaos: the thread that carries a schedule out, and what is told of it."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from pytest_qemuvm.errors import (
    ChannelError,
    ChaosError,
    NotRunning,
    NotSupportedInDryRun,
    QemuVMError,
    QmpDisconnected,
    SpecError,
    VMStateError,
    WaitTimeout,
    end_with,
)
from pytest_qemuvm.machine.faults.schedule import Step, moves

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_qemuvm.machine.faults.ledger import FaultLedger

WAIT_SECONDS = 300.0


@dataclass(slots=True)
class Turn:
    """What came of one step of the schedule."""

    step: Step
    name: str
    outcome: str = "begun"
    error: Exception | None = None

    def __str__(self) -> str:
        return (
            f"{self.step.at:9.3f} s  {self.name}, for {self.step.lasts:.3f} s"
            f"{'' if self.outcome == 'begun' else ': ' + self.outcome}"
        )


class ChaosRun:
    """Faults that come and go until it is stopped. As a context manager it is stopped on leaving.

    ``seed`` is what repeats it; ``turns`` is what it has done.
    """

    def __init__(
        self,
        ledger: FaultLedger,
        owner: str,
        faults: Mapping[str, Callable[[], Any]],
        seed: int,
        interval: float,
        duration: float,
    ) -> None:
        self.seed = seed
        self.names = tuple(faults)
        """The faults, in the order that the schedule counts them in."""
        self.interval = interval
        self.duration = duration
        """Seconds of the schedule after which nothing begins any more; infinity: until it is stopped."""
        self.turns: list[Turn] = []
        self._ledger = ledger
        self._owner = owner
        self._makers = tuple(faults.values())
        self._active: dict[int, tuple[Turn, Any]] = {}
        """The faults that have begun, by the number of their step."""
        self._enough = threading.Event()
        self._stopping = threading.RLock()
        self._told = False
        self._thread = threading.Thread(target=self._carry_out, name="qemuvm-chaos", daemon=True)
        ledger.timeline.attach(owner, f"chaos with seed {seed}", self.report)
        ledger.timeline.note(owner, f"chaos begins: seed {seed}")
        self._thread.start()

    def __repr__(self) -> str:
        state = "running" if self.running else "ended"
        return f"<ChaosRun, seed {self.seed}: {len(self.turns)} turns, {state}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        end_with(self.stop, error, "besides")

    @property
    def running(self) -> bool:
        """True while faults come and go."""
        return self._thread.is_alive()

    @property
    def failures(self) -> tuple[Exception, ...]:
        """What could not be begun or healed, but for faults that were passed over."""
        return tuple(turn.error for turn in self.turns if turn.error is not None)

    def wait(self, timeout: float = WAIT_SECONDS) -> None:
        """Wait until all of a run with a ``duration`` has been done and healed; ``timeout`` in seconds.

        Raises as ``stop`` does, SpecError for a run without an end, and WaitTimeout.
        """
        if math.isinf(self.duration):
            raise SpecError("this chaos goes on until it is stopped", hint="give it a duration=")
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise WaitTimeout(
                f"chaos did not come to its end within {timeout:g} s",
                self.report(),
                waited_for="the end of chaos",
                seconds=timeout,
            )
        self.stop()

    def stop(self) -> None:
        """End it: what is being done is done, all that it broke heals, and its thread has ended. Idempotent.

        Raises ChaosError, once, where faults failed.
        """
        self._enough.set()
        self._thread.join()
        with self._stopping:
            for number in sorted(self._active, reverse=True):
                self._heal(number)
            if self._told:
                return
            self._told = True
        self._ledger.timeline.note(self._owner, f"chaos ends: seed {self.seed}")
        self._complain()

    def report(self) -> str:
        """Return how to repeat it, and what it has done: times are those of the schedule."""
        lines = [
            f"seed={self.seed}, interval={self.interval:g} and {len(self.names)} faults make this schedule:",
            *(str(turn) for turn in tuple(self.turns)),
        ]
        return "\n".join(lines)

    # On its own thread

    def _carry_out(self) -> None:
        # The schedule's clock stands still while something is done: a boot takes as long as it takes.
        now = 0.0
        with self._ledger.acting_for(self._owner):
            for move in moves(self.seed, len(self._makers), self.interval, self.duration):
                if self._enough.wait(move.at - now):
                    return
                now = move.at
                if move.what == "begin":
                    self._begin(move.step)
                else:
                    self._heal(move.step.number)

    def _begin(self, step: Step) -> None:
        turn = Turn(step, self.names[step.fault])
        try:
            fault = self._makers[step.fault]()
        except Exception as error:  # noqa: BLE001  # a maker is the test's own; whatever it is, it is told
            if self._is_in_the_way(error):
                turn.outcome = f"passed over: {_brief(error)}"
                self._ledger.timeline.note(self._owner, f"chaos passes over {turn.name}: {_brief(error)}")
            else:
                turn.outcome, turn.error = f"failed: {_brief(error)}", error
        else:
            if callable(getattr(fault, "heal", None)):
                self._active[step.number] = turn, fault
            elif fault is not None:
                turn.error = SpecError(f"{turn.name} returned {fault!r}, which is no fault")
                turn.outcome = f"failed: {_brief(turn.error)}"
        self.turns.append(turn)

    def _heal(self, number: int) -> None:
        turn, fault = self._active.pop(number, (None, None))
        if turn is None or fault is None:
            return
        try:
            fault.heal()
        except Exception as error:  # noqa: BLE001  # all of them are told
            turn.outcome, turn.error = f"not healed: {_brief(error)}", error

    def _is_in_the_way(self, error: Exception) -> bool:
        """Return whether a fault could not begin because of what became of the machine before."""
        if isinstance(error, (NotRunning, QmpDisconnected)):
            return True
        return isinstance(error, (VMStateError, ChannelError)) and bool(self._active)

    # At its end

    def _complain(self) -> None:
        """Raise ChaosError where faults failed, or where there was none that could begin."""
        for error in self.failures:
            if isinstance(error, NotSupportedInDryRun):
                raise error
        failed = [turn for turn in self.turns if turn.error is not None]
        if failed:
            brief = f"{len(failed)} of {len(self.turns)} faults of chaos failed"
        elif self.turns and all(turn.outcome.startswith("passed over") for turn in self.turns):
            brief = f"none of {len(self.turns)} faults of chaos could begin"
        else:
            return
        raise ChaosError(
            brief,
            self.report(),
            f"repeat it with seed={self.seed}",
            seed=self.seed,
            failures=self.failures,
        ) from (self.failures[0] if self.failures else None)


def _brief(error: Exception) -> str:
    return error.brief if isinstance(error, QemuVMError) else f"{type(error).__name__}: {error}"
