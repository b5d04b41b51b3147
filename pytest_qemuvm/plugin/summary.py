"""The lines after the tests: how many used a VM, and the plans where they were asked for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

    from pytest_qemuvm.plugin.state import SessionState


def summarize(reporter: pytest.TerminalReporter, state: SessionState) -> None:
    """Write the summary."""
    users = len(state.users)
    if users or state.settings.mode == "real":
        kind = "real" if state.capabilities.mode == "real" else "simulated"
        reporter.write_line(f"qemuvm: {users} {'test' if users == 1 else 'tests'} used a {kind} VM")
    if state.starts:
        reporter.write_line(f"qemuvm: {_starts(state)}")
    if state.checked:
        reporter.write_line(f"qemuvm: {_checks(state)}", red=bool(state.findings))
    if state.unused_but_strict:
        reporter.write_line("qemuvm: no test used a VM, a failure because of --qemu-strict", red=True)
    _show_plans(reporter, state)


def _show_plans(reporter: pytest.TerminalReporter, state: SessionState) -> None:
    """Print the plans, or write them, where that was asked for."""
    if state.settings.plan == "-":
        for owner, plans in state.plans.items():
            for plan in plans:
                reporter.section(f"plan of {plan['name']} for {owner}", sep="-")
                reporter.write_line(_as_lines(plan["argv"]))
    elif state.settings.plan is not None:
        try:
            from pytest_qemuvm.plan.compare import as_text  # noqa: PLC0415  # only where it was asked for

            Path(state.settings.plan).write_text(as_text(dict(sorted(state.plans.items()))), encoding="utf-8")
        except OSError as error:
            # An exception here would end pytest before it has shown its summary.
            reporter.write_line(f"qemuvm: plans could not be written: {error}", red=True)
        else:
            reporter.write_line(f"qemuvm: plans written to {state.settings.plan}")


def _starts(state: SessionState) -> str:
    """Return how many VMs were clones, and why the others booted."""
    clones = state.starts["clone"]
    reasons = {reason: count for reason, count in state.starts.items() if reason not in ("clone", "pooled")}
    booted = Counter(reasons)
    text = f"{clones} {'VM was a clone' if clones == 1 else 'VMs were clones'}"
    if state.settings.pool:
        text += f" ({state.starts['pooled']} out of the pool)"
    text += f", {booted.total()} booted"
    if booted:
        text += f" ({'; '.join(f'{count} because {reason}' for reason, count in booted.most_common())})"
    return text


def _checks(state: SessionState) -> str:
    """Return how many tests were checked, and what was found."""
    tests = f"{state.checked} {'test' if state.checked == 1 else 'tests'}"
    if not state.findings:
        return f"nothing left behind by {tests}"
    counts = Counter(kind for kinds in state.findings.values() for kind in kinds)
    found = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
    return f"left behind by {len(state.findings)} of {tests}: {found}"


def _as_lines(argv: list[str]) -> str:
    """Return a command line with one option a line, so that it can be read and pasted."""
    import shlex  # noqa: PLC0415

    lines: list[list[str]] = [[]]
    for word in argv:
        if word.startswith("-") and lines[-1]:
            lines.append([])
        lines[-1].append(word)
    return " \\\n  ".join(shlex.join(line) for line in lines)
