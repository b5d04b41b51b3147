"""``qemuvm qmp``: talk QMP to a VM that a test has started, over its second monitor."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from pytest_qemuvm.cli.output import complain, print_error, say
from pytest_qemuvm.cli.words import from_line, from_words
from pytest_qemuvm.errors import (
    CommandError,
    ConnectError,
    QemuVMError,
    QmpDisconnected,
    QmpTimeout,
)

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from pytest_qemuvm.cli.completion import Completion
    from pytest_qemuvm.qmp import Client

_SECONDS = 30.0


def add_to(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "qmp",
        help="run a QMP command in a running VM, or several at a prompt",
        description="Prints the command's return value as JSON. Without a command it asks for them at a "
        "prompt, where TAB completes, or reads one from each line of what is not a terminal, up to the first "
        "that fails. A value that is JSON is that (1, true, null, '\"1\"'), any other is a string. Exit "
        "status 0: done. 1: QEMU refused, or did not answer. 2: refused or misused, and nothing was sent.",
    )
    parser.add_argument("--session", metavar="TAG", help="the session, where several have a VM of that name")
    parser.add_argument(
        "--timeout", type=float, default=_SECONDS, metavar="SECONDS", help="for each reply (default: 30)"
    )
    parser.add_argument(
        "--allow-dangerous", action="store_true", help="send it even if it reaches outside the VM"
    )
    parser.add_argument("name", metavar="NAME", help="the VM's name, as `qemuvm ps` shows it")
    parser.add_argument("command", metavar="COMMAND", nargs="?", help="such as query-status")
    parser.add_argument(
        "words", metavar="ARGUMENT", nargs="*", help="key=value, a.b=value, or one JSON object"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Connect and do what is asked."""
    from pytest_qemuvm.qmp import connect  # noqa: PLC0415  # no other subcommand needs it

    try:
        given = from_words(arguments.words)
        with connect(arguments.name, session=arguments.session, timeout=arguments.timeout) as client:
            talk = _Talk(client, arguments.name, allow_dangerous=arguments.allow_dangerous)
            if arguments.command is not None:
                return talk.execute(arguments.command, given)
            return talk.prompt() if sys.stdin.isatty() else talk.lines()
    except QemuVMError as error:
        return _told(error)


def _told(error: QemuVMError) -> int:
    """Say what is wrong and return the exit status."""
    print_error(error)
    return 1 if isinstance(error, (CommandError, ConnectError, QmpDisconnected, QmpTimeout)) else 2


class _Talk:
    """A conversation with one VM."""

    def __init__(self, client: Client, name: str, *, allow_dangerous: bool) -> None:
        self._client = client
        self._name = name
        self._allow_dangerous = allow_dangerous
        self._indent = 2 if sys.stdout.isatty() else None
        self._shown = client.events.last
        self._completion: Completion | None = None

    def execute(self, command: str, arguments: Mapping[str, Any]) -> int:
        """Run a command and print its return value. Raises QemuVMError."""
        value = self._client.execute(command, arguments, allow_dangerous=self._allow_dangerous)
        say(json.dumps(value, indent=self._indent))
        return 0

    def lines(self) -> int:
        """Run the commands of stdin, one a line, up to the first that fails."""
        for number, line in enumerate(sys.stdin, start=1):
            if line.strip() and not line.lstrip().startswith("#"):
                try:
                    self.execute(*from_line(line))
                except QemuVMError:
                    complain(f"qemuvm: line {number}: {line.strip()}")
                    raise
        return 0

    def prompt(self) -> int:
        """Ask for commands until the end of the input, or of QEMU."""
        self._prepare_line_editing()
        while True:
            self._show_events()
            try:
                line = input(f"{self._name}> ")
                if line.strip():
                    self.execute(*from_line(line))
            except EOFError:
                say("")
                return 0
            except KeyboardInterrupt:
                say("")
            except QmpDisconnected:
                self._show_events()
                raise
            except QemuVMError as error:
                _told(error)

    def _show_events(self) -> None:
        for event in self._client.events.since(self._shown):
            say(f"!! {event.name} {json.dumps(event.data)}")
            self._shown = event.seq

    def _prepare_line_editing(self) -> None:
        try:
            import readline  # noqa: PLC0415  # not in every build of Python
        except ImportError:
            return
        readline.set_completer_delims(" ")
        readline.set_completer(self._complete)
        uses_libedit = "libedit" in (readline.__doc__ or "")
        readline.parse_and_bind("bind ^I rl_complete" if uses_libedit else "tab: complete")

    def _complete(self, text: str, number: int) -> str | None:
        import readline  # noqa: PLC0415  # as above

        from pytest_qemuvm.cli.completion import Completion  # noqa: PLC0415  # only a prompt needs it

        if self._completion is None:
            schema = self._client.schema
            if schema is None:
                return None
            self._completion = Completion(schema.types)
        found = self._completion.complete(readline.get_line_buffer()[: readline.get_begidx()], text)
        return found[number] if number < len(found) else None
