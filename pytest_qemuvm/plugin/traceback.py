"""What a failing test's report shows of the way to an error: the test's own lines, not the harness's.

A QemuVMError says what happened, with the evidence and a hint. The frames between the test and the place that
raised it, and the errors that it was made from, tell of the harness alone. ``--full-trace`` shows them.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from pytest_qemuvm.errors import CoherenceError, QemuVMError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    import pytest

_HARNESS = "pytest_qemuvm"
_HOOKS = f"{_HARNESS}.plugin.hooks"
_RUNNERS = frozenset({"_pytest", "pluggy", _HARNESS})
_WRAPPERS = frozenset({"contextlib", "concurrent.futures._base"})
"""Library frames between a test's line and the harness that say nothing by themselves."""


@contextmanager
def shortened(call: pytest.CallInfo[None]) -> Iterator[None]:
    """While a report is made, end the traceback of a harness's error where the harness begins.

    Where no line of the user's leads there, as to a VM that the fixture ``vm`` could not start, the first
    frame of the harness stays, because pytest needs one to show the error at.
    """
    excinfo = call.excinfo
    span = _span(excinfo.tb) if excinfo is not None and isinstance(excinfo.value, QemuVMError) else None
    if excinfo is None or span is None:
        yield
        return
    begin, end = span
    whole = excinfo.traceback
    excinfo.traceback = whole[begin:end]
    # pytest follows the links of the traceback anew. A debugger, which comes later, gets all of them again.
    last = _links(excinfo.tb)[end - 1]
    hidden, last.tb_next = last.tb_next, None
    try:
        yield
    finally:
        last.tb_next = hidden
        excinfo.traceback = whole


def present(report: pytest.TestReport, excinfo: pytest.ExceptionInfo[BaseException], *, whole: bool) -> None:
    """Have the report of a harness's error say what happened, and once.

    pytest's summary, and JUnit's message, get the first sentence: on a terminal pytest cuts such lines to
    its width, but where CI is set it would repeat all the evidence. ``whole`` leaves the rest as it is.
    """
    error = excinfo.value
    if not isinstance(error, QemuVMError):
        return
    if not whole:
        if isinstance(error, CoherenceError):
            # It is raised by a fixture of ours after the test: there is no line to be shown.
            report.longrepr = excinfo.getrepr(style="value")
        _drop_causes(error, report.longrepr)
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is not None:
        crash.message = f"{type(error).__qualname__}: {error.brief}"


def _drop_causes(error: QemuVMError, longrepr: object) -> None:
    """Drop from a report the errors that a harness's error was made from inside the harness.

    What the user's own code was handling when it called the harness stays.
    """
    chain = getattr(longrepr, "chain", None)
    if not isinstance(chain, list):
        return
    shown = 1
    cause = _cause(error)
    # A caught error's traceback begins in the frame that caught it.
    while cause is not None and not (cause.__traceback__ and _is_harness(_module(cause.__traceback__))):
        shown += 1
        cause = _cause(cause)
    del chain[:-shown]


def _span(traceback: TracebackType) -> tuple[int, int] | None:
    """Return which frames to show, first and one after the last; None for all."""
    names = [_module(link) for link in _links(traceback)]
    begin = next((at for at, name in enumerate(names) if _is_harness(name)), None)
    if begin is None:
        return None
    end = begin
    while end and names[end - 1] in _WRAPPERS:
        end -= 1
    if all(name.partition(".")[0] in _RUNNERS for name in names[:end]):
        return begin, begin + 1
    return 0, end


def _links(traceback: TracebackType | None) -> list[TracebackType]:
    found = []
    while traceback is not None:
        found.append(traceback)
        traceback = traceback.tb_next
    return found


def _module(link: TracebackType) -> str:
    return str(link.tb_frame.f_globals.get("__name__", ""))


def _is_harness(module: str) -> bool:
    return module.partition(".")[0] == _HARNESS and module != _HOOKS


def _cause(error: BaseException) -> BaseException | None:
    if error.__cause__ is not None:
        return error.__cause__
    return None if error.__suppress_context__ else error.__context__
