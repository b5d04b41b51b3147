"""The ledger of faults: what all of them have in common, shown with faults of nothing at all."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from pytest_qemuvm.errors import QemuVMError
from pytest_qemuvm.machine.faults.ledger import FaultLedger
from pytest_qemuvm.machine.faults.timeline import Timeline, written

if TYPE_CHECKING:
    from contextlib import ExitStack

SUBJECT = object()


@pytest.fixture
def ledger() -> FaultLedger:
    return FaultLedger(Timeline(), lambda: "a test")


def texts(ledger: FaultLedger) -> list[str]:
    return [moment.text for moment in ledger.timeline.of("a test")]


class TestFaults:
    def test_a_fault_lasts_until_it_is_healed(self, ledger: FaultLedger) -> None:
        mended: list[str] = []
        fault = ledger.inject("a thing", SUBJECT, lambda undo: undo.callback(mended.append, "thing"))
        assert fault.active
        assert ledger.active() == [fault]
        assert not mended
        fault.heal()
        assert not fault.active
        assert mended == ["thing"]
        fault.heal()
        assert mended == ["thing"]
        assert texts(ledger) == ["begun: a thing", "healed: a thing"]

    def test_as_a_context_manager_it_heals_on_leaving(self, ledger: FaultLedger) -> None:
        with ledger.inject("a thing", SUBJECT, lambda undo: None) as fault:
            assert fault.active
        assert not fault.active

    def test_one_that_fails_half_way_is_undone_and_never_was(self, ledger: FaultLedger) -> None:
        mended: list[str] = []

        def act(undo: ExitStack) -> None:
            undo.callback(mended.append, "first half")
            raise QemuVMError("no second half")

        with pytest.raises(QemuVMError, match="no second half"):
            ledger.inject("a thing", SUBJECT, act)
        assert mended == ["first half"]
        assert ledger.active() == []
        assert texts(ledger) == ["failed: a thing"]

    def test_the_tests_own_failure_comes_first(self, ledger: FaultLedger) -> None:
        def unmendable() -> None:
            raise QemuVMError("stuck")

        with (
            pytest.raises(AssertionError) as caught,
            ledger.inject("a thing", SUBJECT, lambda undo: undo.callback(unmendable)),
        ):
            raise AssertionError("the test's")
        assert "stuck" in caught.value.__notes__[0]
        assert ledger.active() == []
        assert texts(ledger)[-1] == "not healed: a thing"

    def test_what_it_is_about_takes_it_along(self, ledger: FaultLedger) -> None:
        mended: list[str] = []
        fault = ledger.inject("a thing", SUBJECT, lambda undo: undo.callback(mended.append, "thing"))
        other = ledger.inject("another", object(), lambda undo: None)
        ledger.forget(SUBJECT)
        assert not fault.active
        assert other.active
        assert not mended
        fault.heal()
        assert not mended

    def test_of_several_threads_one_heals(self, ledger: FaultLedger) -> None:
        mended: list[int] = []
        fault = ledger.inject("a thing", SUBJECT, lambda undo: undo.callback(mended.append, 1))
        gate = threading.Barrier(8)

        def heal(_: int) -> None:
            gate.wait(10)
            fault.heal()

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(heal, range(8)))
        assert mended == [1]

    def test_the_timeline_says_when_and_for_whom(self, ledger: FaultLedger) -> None:
        ledger.note("reset of vm0")
        ledger.inject("a thing", SUBJECT, lambda undo: None, owner="another test")
        (moment,) = ledger.timeline.of("a test")
        assert written((moment,)) == "   +0.000 s  reset of vm0"
        ledger.timeline.forget("a test")
        assert ledger.timeline.of("a test") == ()
        assert len(ledger.timeline.of("another test")) == 1
