"""Faults by chance: which, when and for how long comes from a seed, and a thread carries it out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_qemuvm.errors import QemuVMError, SpecError
from pytest_qemuvm.machine.faults.chaos_run import ChaosRun
from pytest_qemuvm.spec.seeds import checked_seed, chosen_seed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_qemuvm.machine.faults.ledger import FaultLedger

INTERVAL = 1.0

FaultMaker = Callable[[], Any]
"""What begins a fault and returns it, or None for what has no inverse."""


class Chaos:
    """What the fixture ``chaos`` gives: call it for faults by chance."""

    def __init__(self, ledger: FaultLedger, owner: str) -> None:
        self._ledger = ledger
        self._owner = owner
        self._runs: list[ChaosRun] = []

    def __call__(
        self,
        faults: Mapping[str, FaultMaker] | Iterable[FaultMaker],
        *,
        seed: int | None = None,
        interval: float = INTERVAL,
        duration: float | None = None,
    ) -> ChaosRun:
        """Have faults come and go from now on, until the block is left, ``stop``, or the end of the test.

        ``faults`` are callables that begin one and return it, such as ``vm.faults.paused``; a mapping gives
        them names. About every ``interval`` seconds one of them begins, and lasts half an interval to two; no
        more begin after ``duration`` seconds. Time does not count while one is begun or healed. The ``seed``
        alone decides which, when and for how long; without one it is chosen, and is in the report.

        A fault that cannot begin because its machine is gone, or is as another fault of these has left it, is
        passed over. Any other failure is a ChaosError at the end. Raises SpecError.
        """
        named, given = _named(faults), checked_seed(seed, "chaos: ")
        run = ChaosRun(
            self._ledger,
            self._owner,
            named,
            chosen_seed(given),
            _seconds(interval, "interval"),
            math.inf if duration is None else _seconds(duration, "duration"),
        )
        self._runs.append(run)
        return run

    def close(self) -> None:
        """Stop all runs. Raises what they raise, several as a group."""
        errors: list[Exception] = []
        runs, self._runs = self._runs, []
        for run in runs:
            try:
                run.stop()
            except QemuVMError as error:
                errors.append(error)
        if len(errors) == 1:
            raise errors[0]
        if errors:
            raise ExceptionGroup("chaos", errors)


def _named(faults: object) -> dict[str, FaultMaker]:
    """Return faults by name. Raises SpecError for what is none."""
    if isinstance(faults, Mapping):
        named = {str(name): fault for name, fault in faults.items()}
    elif isinstance(faults, (str, bytes)) or not hasattr(faults, "__iter__"):
        raise SpecError(f"chaos: {faults!r} is not a list of faults", hint="write faults=[vm.faults.paused]")
    else:
        named = {}
        for number, fault in enumerate(faults, 1):
            name = called(fault) or f"fault {number}"
            named[name if name not in named else f"{name} ({number})"] = fault
    if not named:
        raise SpecError("chaos: there is no fault to choose from")
    for name, fault in named.items():
        if not callable(fault):
            raise SpecError(
                f"chaos: {name} is {fault!r}, which cannot be called",
                hint="give it what begins a fault, not a fault: vm.faults.paused without parentheses",
            )
    return named


def called(fault: object) -> str | None:
    """Return what a callable is called in the report: ``vm0.paused``; None where nobody named it."""
    if isinstance(fault, partial):
        given = [*map(repr, fault.args), *(f"{key}={value!r}" for key, value in fault.keywords.items())]
        name = called(fault.func)
        return name and f"{name}({', '.join(given)})"
    name = getattr(fault, "__name__", None)
    if name is None or name == "<lambda>":
        return None
    of = getattr(getattr(fault, "__self__", None), "name", None)
    return f"{of}.{name}" if isinstance(of, str) else str(name)


def _seconds(value: object, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise SpecError(f"chaos: {key}={value!r} is not a number of seconds above 0")
    return float(value)
