"""What the plugin does while pytest runs: header, marks, reports, summary."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest

from pytest_qemuvm.plugin.scope import EXPECT, FOUND
from pytest_qemuvm.plugin.traceback import present, shortened

if TYPE_CHECKING:
    from collections.abc import Generator

    from pytest_qemuvm.plugin.state import SessionState


ALLOW = "qemuvm_allow"
NEEDS: pytest.StashKey[frozenset[str]] = pytest.StashKey()
"""What a test's marks say that it needs."""
WIDER = frozenset({"module_vm_factory", "session_vm_factory"})


class SessionHooks:
    """The hooks of one session. What a hook needs is imported when it has something to do."""

    def __init__(self, state: SessionState) -> None:
        self._state = state

    def pytest_report_header(self) -> list[str]:
        """Say the mode, why, and what was proven."""
        from pytest_qemuvm.plugin.header import header  # noqa: PLC0415

        return header(self._state)

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        """Have a test that only uses VMs of wider scope end with a check as well."""
        names: list[str] = getattr(item, "fixturenames", [])
        if not WIDER.isdisjoint(names):
            # The first to be set up is the last to be torn down.
            names.insert(0, "_qemuvm_of_test")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        """Check the test's marks, skip what this session cannot run, and set up."""
        __tracebackhide__ = True
        marks = list(item.iter_markers("qemuvm"))
        item.stash[NEEDS] = frozenset()
        if marks:
            from pytest_qemuvm.plugin.needs import check_marks  # noqa: PLC0415

            item.stash[NEEDS] = check_marks(marks, self._state)
        if item.get_closest_marker(EXPECT) is not None:
            from pytest_qemuvm.plugin.scope import check_expectations  # noqa: PLC0415

            check_expectations(item, self._state)
        if item.get_closest_marker(ALLOW) is not None:
            from pytest_qemuvm.plugin.needs import check_permissions  # noqa: PLC0415

            self._state.permits = item.nodeid, check_permissions(item)
        self._state.acting[:] = [item.nodeid]
        self._state.tell()
        if "assert_plan" in getattr(item, "fixturenames", ()):
            self._state.open_harness().recordings.begin()
        try:
            return (yield)
        except Exception as error:
            self._skip_if_dry(item, error)
            raise

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[object], request: pytest.FixtureRequest
    ) -> Generator[None, object, object]:
        """Note for whom a fixture acts; what one of wider scope has set up is no leak of the test's."""
        if fixturedef.scope == "function":
            return (yield)
        acting = self._state.acting
        acting.append(getattr(request.node, "nodeid", "") or "session")
        self._state.tell()
        try:
            return (yield)
        finally:
            acting.pop()
            self._state.tell()
            harness = self._state.harness
            if harness is not None and self._state.settings.coherence != "off" and harness.vms():
                harness.observer.begin()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Run the test; in dry-run one that needs a guest is skipped where only a guest could go on."""
        __tracebackhide__ = True
        try:
            outcome = yield
        except Exception as error:
            self._skip_if_dry(item, error)
            raise
        if needs := item.stash.get(NEEDS, None):
            from pytest_qemuvm.plugin.needs import skip_unknown  # noqa: PLC0415

            skip_unknown(needs, self._state)
        return outcome

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        """Tear down; what a fixture of such a test wants of a guest then is skipped as well."""
        __tracebackhide__ = True
        try:
            return (yield)
        except Exception as error:
            self._skip_if_dry(item, error)
            raise

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Attach to a report what the test's machines have to say, and show the test's lines, not ours."""
        shorten = not item.config.option.fulltrace and self._state.harness is not None
        with shortened(call) if shorten else nullcontext():
            report = yield
        if call.when == "teardown":
            report.qemuvm_findings = item.stash.get(FOUND, None)  # type: ignore[attr-defined]
        if call.excinfo is not None:
            if report.failed:
                present(report, call.excinfo, whole=item.config.option.fulltrace)
            self._locate_skip(report, item, call)
        if self._state.harness is not None:
            from pytest_qemuvm.plugin.report import complete  # noqa: PLC0415

            complete(report, item, call, self._state)
        if call.when == "teardown":
            if self._state.settings.plan is not None:
                report.qemuvm_plans = self._state.take_plans(item)  # type: ignore[attr-defined]
            elif self._state.harness is not None and self._state.harness.recordings:
                self._state.harness.recordings.end()  # it was for this test's assert_plan
        return report

    def pytest_runtest_logfinish(self) -> None:
        """Permit nothing that the marks of the test did: it has ended."""
        self._state.permits = "", frozenset()
        self._state.tell()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count who really used a VM and gather plans; the controller does so with its workers' reports."""
        if getattr(report, "qemuvm_used", False):
            self._state.users.add(report.nodeid)
        self._state.starts.update(getattr(report, "qemuvm_starts", {}))
        kinds = getattr(report, "qemuvm_findings", None)
        if kinds is not None:
            self._state.checked += 1
        if kinds:
            self._state.findings[report.nodeid] = kinds
        for owner, plan in getattr(report, "qemuvm_plans", ()):
            self._state.plans.setdefault(owner, []).append(plan)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Under --qemu-strict, fail a run that used no VM."""
        good = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
        if self._state.unused_but_strict and session.exitstatus in good:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say how many tests used a VM, and print the plans where that was asked for."""
        from pytest_qemuvm.plugin.summary import summarize  # noqa: PLC0415

        summarize(terminalreporter, self._state)

    def pytest_unconfigure(self) -> None:
        """End what is left, should the session fixture's own end not have come."""
        self._state.close()

    def _locate_skip(self, report: pytest.TestReport, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
        if report.skipped and call.excinfo is not None:
            from pytest_qemuvm.plugin.needs import locate_skip  # noqa: PLC0415

            locate_skip(report, item, call.excinfo.value)

    def _skip_if_dry(self, item: pytest.Item, error: Exception) -> None:
        if needs := item.stash.get(NEEDS, None):
            from pytest_qemuvm.plugin.needs import skip_if_dry  # noqa: PLC0415

            skip_if_dry(error, needs, self._state)
