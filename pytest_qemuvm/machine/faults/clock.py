"""The guest's clock, set to where jumps have it be."""

from __future__ import annotations

import math
import re
import time
from datetime import datetime
from typing import TYPE_CHECKING

from pytest_qemuvm.errors import QemuVMError, SpecError
from pytest_qemuvm.guest.agent import clock_message
from pytest_qemuvm.guest.waker import for_printf
from pytest_qemuvm.host.deadline import Deadline

if TYPE_CHECKING:
    from pytest_qemuvm.guest.agent import AgentChannel
    from pytest_qemuvm.machine.live import Live

_YEAR = 365.25 * 86400
EARLIEST, LATEST = 2 * _YEAR, 200 * _YEAR
"""Seconds since the epoch between which a clock can be set: a kernel's begins at 0 when it boots."""
_AS_GOOD_AS_NONE = 1.0
"""A guest whose clock is so many seconds from the host's shows the host's time: it was set over a channel."""
_CLOSE = 2.0
"""So many seconds, and those that the question took, may lie between what was set and what is read."""
_READ = "date -u -Ins"
_SET = "printf '{message}' >/run/qemuvm/waker.in && read -r verdict </run/qemuvm/waker.out && exit $verdict"


def checked_jump(seconds: object) -> float:
    """Return a number of seconds to jump by. Raises SpecError."""
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not math.isfinite(seconds):
        raise SpecError(f"clock_jump: {seconds!r} is not a number of seconds")
    if seconds == 0:
        raise SpecError("clock_jump: a jump by 0 seconds is none")
    _check_shown(float(seconds))
    return float(seconds)


def jump(live: Live, channel: AgentChannel, seconds: float, deadline: Deadline) -> float:
    """Have the clock jump, besides its earlier jumps; return by how much it differs from the host's now."""
    strain = live.strain
    with strain.lock:
        if strain.boot != channel.boot_id or not strain.jumps:
            off = _difference(channel, deadline)[0]
            strain.boot, strain.jumps = channel.boot_id, []
            strain.clock = 0.0 if abs(off) < _AS_GOOD_AS_NONE else off
        _check_shown(strain.clock + sum(strain.jumps) + seconds)
        strain.jumps.append(seconds)
        return _set(channel, strain.clock + sum(strain.jumps), deadline)


def set_back(live: Live, channel: AgentChannel, seconds: float, boot: str | None, patience: float) -> None:
    """Take a jump back, in the boot in which it was."""
    strain = live.strain
    with strain.lock:
        if strain.boot == boot == channel.boot_id and seconds in strain.jumps:
            strain.jumps.remove(seconds)
            _set(channel, strain.clock + sum(strain.jumps), Deadline.after(patience))


def _check_shown(ahead: float) -> None:
    if not EARLIEST < time.time() + ahead < LATEST:
        raise SpecError(f"clock_jump: no clock shows the time that is {ahead:+g} s from now")


def _set(channel: AgentChannel, ahead: float, deadline: Deadline) -> float:
    """Set the clock ahead of the host's, and read it; return by how much it is."""
    message = for_printf(clock_message(ahead)).decode("ascii")
    done = channel.run(_SET.format(message=message), deadline=deadline)
    if not done.ok:
        raise QemuVMError("the guest's kernel refused to set its clock", done.report())
    shown, took = _difference(channel, deadline)
    if abs(shown - ahead) > _CLOSE + took:
        raise QemuVMError(f"the guest's clock was set {ahead:+.1f} s ahead and is {shown:+.1f} s ahead")
    return shown


def _difference(channel: AgentChannel, deadline: Deadline) -> tuple[float, float]:
    """Return by how many seconds the guest's clock is ahead of the host's, and how long the question took."""
    asked = time.time()
    text = channel.run(_READ, deadline=deadline).stdout.strip()
    told = time.time()
    # 2026-01-31T12:34:56,123456789+00:00, and Python knows microseconds.
    found = re.fullmatch(r"(.{19})[,.](\d{6})\d*(\+00:?00|UTC)?", text)
    if found is None:
        raise QemuVMError("the guest does not say what time it is", f"{_READ!r} says {text!r}")
    guest = datetime.fromisoformat(f"{found[1]}.{found[2]}+00:00").timestamp()
    return guest - (asked + told) / 2, told - asked
