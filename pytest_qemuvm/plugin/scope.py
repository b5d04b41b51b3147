"""The end of a test, a module, the session: what was left behind fails it, unless it was declared."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_qemuvm.coherence import Finding
    from pytest_qemuvm.machine.harness import Harness
    from pytest_qemuvm.machine.scope import EndOfScope
    from pytest_qemuvm.plugin.state import SessionState

EXPECT = "qemuvm_expect"
FOUND: pytest.StashKey[list[str]] = pytest.StashKey()
"""Kinds of the findings that a test's end came to, for the summary."""
SECTION = "coherence"


def owner_of(node: pytest.Item | pytest.Collector) -> str:
    """Return for whom something is made at a node: a test's or module's id, or ``session``."""
    return node.nodeid or "session"


def check_expectations(item: pytest.Item, state: SessionState) -> None:
    """Fail a test, before it is set up, for a mark that declares what nobody could find."""
    from pytest_qemuvm.coherence import known_kinds  # noqa: PLC0415
    from pytest_qemuvm.errors import SpecError  # noqa: PLC0415

    try:
        expected_kinds(item, known_kinds(state.extensions.rules))
    except SpecError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None


def expected_kinds(node: pytest.Item | pytest.Collector, known: frozenset[str]) -> frozenset[str]:
    """Return the kinds of findings that a test declares with its marks; a SpecError for an unknown one."""
    from pytest_qemuvm.coherence import checked_kind  # noqa: PLC0415
    from pytest_qemuvm.errors import SpecError  # noqa: PLC0415

    kinds: set[str] = set()
    for mark in node.iter_markers(EXPECT):
        if mark.kwargs or not mark.args:
            raise SpecError(
                f"@pytest.mark.{EXPECT} takes names of kinds", hint=f'write {EXPECT}("orphan_disk")'
            )
        kinds.update(checked_kind(kind, known) for kind in mark.args)
    return frozenset(kinds)


def end(request: pytest.FixtureRequest, harness: Harness) -> None:
    """End what was made at the fixture's scope; raise what went wrong, all of it, when all has been ended."""
    node: Any = request.node
    is_test = request.scope == "function"
    came = harness.end(owner_of(node), is_test=is_test)
    expected = expected_kinds(node, harness.kinds_of_findings) if is_test else frozenset()
    undeclared = [finding for finding in came.findings if finding.kind not in expected]
    missing = sorted(expected - came.appeared) if came.checked else []
    errors = list(came.errors)
    if undeclared or missing:
        errors.insert(0, _error(undeclared, missing, came))
    if is_test:
        node.stash[FOUND] = [finding.kind for finding in undeclared]
    if harness.settings.coherence == "warn" and undeclared:
        from pytest_qemuvm.errors import QemuVMWarning  # noqa: PLC0415

        text = str(errors.pop(0))
        if is_test:
            node.add_report_section("teardown", SECTION, text)
        warnings.warn(QemuVMWarning(text), stacklevel=1)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise ExceptionGroup(f"{owner_of(node)} could not be ended in order", errors)


def _error(findings: list[Finding], missing: Iterable[str], came: EndOfScope) -> Exception:
    from pytest_qemuvm.errors import CoherenceError  # noqa: PLC0415

    said = []
    if findings:
        kinds = ", ".join(dict.fromkeys(finding.kind for finding in findings))
        said.append(f"{len(findings)} {'finding' if len(findings) == 1 else 'findings'} at the end: {kinds}")
    said += [f"expected {kind}, which did not appear" for kind in missing]
    remains = [f"{finding.kind} {finding.resource}: {why}" for finding, why in came.remains.items()]
    hint = (
        f"what is meant to be left is declared: @pytest.mark.{EXPECT}({findings[0].kind!r})"
        if findings
        else None
    )
    return CoherenceError(
        "; ".join(said), hint=hint, findings=findings, missing=tuple(missing), remains=remains
    )
