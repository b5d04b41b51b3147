"""``qemuvm plan diff A B``: what differs between two files that ``--qemu-plan`` has written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_qemuvm.cli.output import complain, say
from pytest_qemuvm.plan.compare import differences

if TYPE_CHECKING:
    import argparse

MISUSED = 2


def add_to(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("plan", help="compare recorded plans")
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    diff = verbs.add_parser(
        "diff",
        help="say what differs between two files of plans",
        description="Compares what two runs with --qemu-plan=FILE have planned, started and said, test by "
        "test; golden files of assert_plan too. Exit status: 0 the same, 1 different, 2 not to be compared.",
    )
    diff.add_argument("one", metavar="A")
    diff.add_argument("other", metavar="B")
    diff.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Compare, and say what differs."""
    try:
        one, other = _read(arguments.one), _read(arguments.other)
    except (OSError, ValueError) as error:
        complain(f"qemuvm: {error}")
        return MISUSED
    found = differences(one, other, (arguments.one, arguments.other))
    for told in found:
        say(told)
    if not found:
        tests = len(one)
        say(f"the same: {tests} {'test' if tests == 1 else 'tests'}")
    return 1 if found else 0


def _read(path: str) -> dict[str, Any]:
    """Return the plans of a file by test. Raises OSError, and ValueError for a file of something else."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not a file of plans: {error}") from error
    if isinstance(content, list):  # a golden file, of one test
        content = {"the test": content}
    if not isinstance(content, dict) or not all(isinstance(plans, list) for plans in content.values()):
        raise ValueError(f"{path} is not a file of plans: it has no list of them for each test")
    return content
