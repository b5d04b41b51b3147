"""The command line: ``qemuvm``, the same as ``python -m pytest_qemuvm``.

One module per subcommand, each with ``add_to(subparsers)``, which leaves a function of the parsed arguments
in ``run``. Exit status: 0 done, 1 failed or not all well, 2 misused or refused, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, cast

from pytest_qemuvm import __version__
from pytest_qemuvm.cli import doctor, gc, ps, qmp, setup, templates
from pytest_qemuvm.cli.output import complain, print_error
from pytest_qemuvm.errors import QemuVMError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_COMMANDS = (doctor, setup, ps, gc, templates, qmp)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return the exit status."""
    arguments = _parser().parse_args(argv)
    run = cast("Callable[[argparse.Namespace], int]", arguments.run)
    try:
        status = run(arguments)
        sys.stdout.flush()
    except QemuVMError as error:
        print_error(error)
        return 1
    except KeyboardInterrupt:
        complain("interrupted")
        return 130
    except BrokenPipeError:
        # The reader has gone (`| head`). Python would complain once more while it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        # A directory that cannot be written, a disk that is full: its message says all.
        complain(f"qemuvm: {error}")
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="qemuvm",
        description="Prepare and look after the machines that pytest-qemuvm gives to tests.",
    )
    parser.add_argument("--version", action="version", version=f"pytest-qemuvm {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in _COMMANDS:
        command.add_to(subparsers)
    return parser
