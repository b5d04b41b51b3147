"""``qemuvm gc``: remove what dead sessions have left; the living are not touched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_qemuvm.cli.output import complain, say
from pytest_qemuvm.host.paths import sessions_root
from pytest_qemuvm.host.sessions import Found, collect

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator


def add_to(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "gc",
        help="remove what dead sessions have left",
        description="Ends processes and removes files of this user's sessions below TMPDIR whose pytest has "
        "died. Exit status 0: nothing is left of them. 1: something is, or with --dry-run would be removed.",
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Remove, and say what."""
    root = sessions_root()
    found = collect(root, dry_run=arguments.dry_run)
    for session in found:
        for line in _lines(session, "would remove" if arguments.dry_run else "removed"):
            say(line)
        for left in session.left:
            complain(f"qemuvm: session {session.tag}: {left} is still there")
    if not found:
        say(f"no dead session below {root}")
    return 1 if any(session.left or arguments.dry_run for session in found) else 0


def _lines(session: Found, verb: str) -> Iterator[str]:
    things = [
        *(f"process {pid}" for pid in session.pids),
        *(f"interface {name}" for name in session.links),
        *session.files,
    ]
    yield from (f"{session.tag}: {verb} {thing}" for thing in things if thing not in session.left)
