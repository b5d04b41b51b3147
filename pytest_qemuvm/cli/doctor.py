"""``qemuvm doctor``: what is there, what is missing, what to do about it."""

from __future__ import annotations

import json
import os
import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING

from pytest_qemuvm.cli.output import say
from pytest_qemuvm.cli.survey import Survey, survey
from pytest_qemuvm.spec.settings import resolve

if TYPE_CHECKING:
    import argparse

_MARKS = {"ok": "ok", "warn": "warn", "missing": "MISSING"}


def add_to(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "doctor",
        help="say what real machines need, and what of it is here",
        description="Exit status 0: real mode can run the built-in guest on this host. 1: it cannot.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--fresh", action="store_true", help="measure the accelerators again")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Look and print."""
    found = survey(resolve({}, os.environ, {}), fresh=arguments.fresh)
    if arguments.json:
        say(json.dumps({"ready": found.ready, "rows": [asdict(row) for row in found.rows]}, indent=2))
    else:
        say(table(found))
    return 0 if found.ready else 1


def table(found: Survey) -> str:
    """Return the rows as text, remedies under what they mend."""
    width = max(len(row.name) for row in found.rows)
    lines = []
    for row in found.rows:
        indent = " " * (width + 11)
        lines.append(
            textwrap.fill(
                row.value,
                width=110,
                initial_indent=f"{row.name:{width}}  {_MARKS[row.status]:7}  ",
                subsequent_indent=indent,
                break_long_words=False,
                break_on_hyphens=False,
            )
        )
        if row.remedy:
            lines.append(f"{indent}-> {row.remedy}")
    lines.append("")
    lines.append(
        "Real machines can run here."
        if found.ready
        else "Real machines cannot run here yet: see MISSING above."
    )
    return "\n".join(lines)
