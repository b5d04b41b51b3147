"""What the plugin does while pytest runs: header, marks, reports, summary."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

    from pytest_qemuvm.plugin.state import SessionState


class SessionHooks:
    """The hooks of one session. What a hook needs is imported when it has something to do."""

    def __init__(self, state: SessionState) -> None:
        self._state = state

    def pytest_report_header(self) -> list[str]:
        """Say the mode, why, and what was proven."""
        from pytest_qemuvm.plugin.header import header  # noqa: PLC0415

        return header(self._state)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        """Check the test's marks, skip what this session cannot run, and set up."""
        __tracebackhide__ = True
        marks = list(item.iter_markers("qemuvm"))
        if marks:
            from pytest_qemuvm.plugin.needs import check_marks  # noqa: PLC0415

            check_marks(marks, self._state)
        try:
            return (yield)
        except Exception as error:
            self._skip_if_dry(error)
            raise

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Generator[None, object, object]:
        """Run the test; in dry-run, what only a machine can answer skips it."""
        __tracebackhide__ = True
        try:
            return (yield)
        except Exception as error:
            self._skip_if_dry(error)
            raise

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Attach to a report what the test's machines have to say, and show the test's lines, not ours."""
        if self._state.harness is None:
            report = yield
            self._locate_skip(report, item, call)
            if report.failed and call.excinfo is not None:
                from pytest_qemuvm.plugin.traceback import summarised  # noqa: PLC0415

                summarised(call.excinfo.value, report.longrepr)
            return report
        from pytest_qemuvm.plugin.report import complete  # noqa: PLC0415
        from pytest_qemuvm.plugin.traceback import shortened, summarised, without_causes  # noqa: PLC0415

        if item.config.option.fulltrace:
            report = yield
        else:
            with shortened(call):
                report = yield
            if call.excinfo is not None:
                without_causes(call.excinfo.value, report.longrepr)
        if call.excinfo is not None:
            summarised(call.excinfo.value, report.longrepr)
        self._locate_skip(report, item, call)
        complete(report, item, call, self._state)
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count who really used a VM and gather plans; the controller does so with its workers' reports."""
        if getattr(report, "qemuvm_used", False):
            self._state.users.add(report.nodeid)
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

    def _skip_if_dry(self, error: Exception) -> None:
        from pytest_qemuvm.errors import NotSupportedInDryRun  # noqa: PLC0415

        if isinstance(error, NotSupportedInDryRun):
            from pytest_qemuvm.plugin.needs import skip  # noqa: PLC0415

            skip(error.brief, self._state)
