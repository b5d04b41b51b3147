"""Waiting for something in the guest, by a loop that runs there: one command, however long it takes.

The loop ends itself shortly before the deadline, so that it can still report what it saw last; a guest that
does not come back from a single attempt is stopped by the channel.
"""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_qemuvm.errors import GuestCommandError, GuestCommandTimeout, SpecError, WaitTimeout
from pytest_qemuvm.guest.wire import encode

if TYPE_CHECKING:
    from pytest_qemuvm.guest.channel import Channel, ExecResult
    from pytest_qemuvm.host.deadline import Deadline

_MARGIN = 0.3
"""Seconds before the deadline at which the loop in the guest gives up by itself."""
_GIVE_UP = 3
"""Status by which an attempt says that waiting longer is pointless."""

# Time is in hundredths of a second since the boot, without the leading zeros that would make it octal. The
# script keeps to what every POSIX shell has, because it runs in distributions' guests too.
_LOOP = """
now() {{
    read -r up rest </proc/uptime
    up=${{up%.*}}${{up#*.}}
    while [ "${{up#0}}" != "$up" ] && [ ${{#up}} -gt 1 ]; do up=${{up#0}}; done
}}
now
end=$((up + {centiseconds}))
while :; do
    output=$(sh -c {attempt} 2>&1) && status=0 || status=$?
    now
    [ $status = 0 ] || [ $status = {give_up} ] || [ "$up" -ge "$end" ] || {{ sleep {interval}; continue; }}
    printf '%s\\n' "$output"
    exit $status
done
"""


def until_succeeds(
    channel: Channel, command: str, deadline: Deadline, *, interval: float = 0.1
) -> ExecResult:
    """Run a command in the guest again and again until its status is 0; return the result of that run.

    ``interval`` is the pause between two runs in seconds. What it writes to both outputs is in ``stdout``.
    Raises WaitTimeout with its last status and output.
    """
    encode(command)
    result = _until(channel, f"( {command}\n)\nexit $(( $? != 0 ))", command, deadline, interval)
    return replace(result, command=command)


def for_file(channel: Channel, path: str, deadline: Deadline) -> None:
    """Return once there is something of that path in the guest. Raises WaitTimeout."""
    encode(path)
    _until(channel, f"[ -e {shlex.quote(path)} ]", f"the file {path}", deadline, 0.02)


def for_port(channel: Channel, port: int, deadline: Deadline) -> None:
    """Return once something in the guest listens on that TCP port. Raises WaitTimeout.

    The guest's kernel is asked; nothing connects, so a server that counts connections sees none.
    """
    given: object = port
    if not isinstance(given, int) or not 0 < given < 65536:
        raise SpecError(f"{given!r} is not a TCP port", hint="a number from 1 to 65535")
    # State 0A is LISTEN (include/net/tcp_states.h); addresses and ports are hexadecimal.
    attempt = f"cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | grep -q ':{port:04X} [0-9A-F]*:0000 0A '"
    _until(channel, attempt, f"a listener on TCP port {port}", deadline, 0.05)


def for_unit(channel: Channel, unit: str, deadline: Deadline) -> None:
    """Return once a systemd unit is active.

    Raises WaitTimeout, and GuestCommandError at once if the unit has failed: it would not become active by
    waiting.
    """
    encode(unit)
    name = shlex.quote(unit)
    attempt = (
        f"state=$(systemctl is-active {name}); "
        f"case $state in active) exit 0 ;; "
        f"failed) systemctl status --no-pager {name}; exit {_GIVE_UP} ;; esac; "
        f'echo "the unit is $state"; exit 1'
    )
    _until(channel, attempt, f"the unit {unit}", deadline, 0.1)


def _until(
    channel: Channel, attempt: str, waited_for: str, deadline: Deadline, interval: float
) -> ExecResult:
    script = _LOOP.format(
        attempt=shlex.quote(attempt),
        centiseconds=max(0, int((deadline.remaining - _MARGIN) * 100)),
        interval=f"{interval:g}",
        give_up=_GIVE_UP,
    )
    try:
        result = channel.run(script, deadline=deadline)
    except GuestCommandTimeout as error:
        raise _timeout(waited_for, deadline, error.result.report()) from error
    except WaitTimeout as error:
        # The guest did not even begin. What its shell was to run is ours, and would explain nothing.
        raise _timeout(waited_for, deadline, f"none: {error.brief}") from error
    if result.returncode == _GIVE_UP:
        raise GuestCommandError(f"gave up waiting for {waited_for}", result.report(), result=result)
    if not result.ok:
        raise _timeout(waited_for, deadline, result.report())
    return result


def _timeout(waited_for: str, deadline: Deadline, attempt: str) -> WaitTimeout:
    return WaitTimeout(
        f"waited {deadline.seconds:g} s in vain for: {waited_for}",
        f"the last attempt:\n{attempt}",
        waited_for=waited_for,
        seconds=deadline.seconds,
    )
