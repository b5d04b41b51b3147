"""What goes wrong on demand, read once at launch from ``QEMUVM_SIM_FAULTS``.

======================  =====================================================================================
key                     meaning
======================  =====================================================================================
``launch``              ``{"status": 1, "stderr": "..."}`` or ``{"signal": 6, "stderr": "..."}``: end at
                        once, before a monitor is greeted; ``{"hang": true}``: never greet one
``crash_after``         ``{"commands": n, "signal": 9}`` or ``{..., "status": 1}``: end on taking in the
                        command after ``n`` others, without an answer; ``qmp_capabilities`` is not counted
``hang_after``          after that many commands, answer nothing more; SIGTERM still works
``disconnect_after``    ``n``: close the monitor instead of answering the command after ``n`` others
``slow_ms``             each reply comes that many milliseconds late
``split``               bytes of one packet: what is sent goes out in pieces of that size, one by one
``storm``               ``{"event": "RTC_CHANGE", "data": {...}, "count": n}``: that many events before the
                        reply to the first command
``unplug``              ``"refuse"``: the guest refuses every unplug; ``{"refuse": ["id", ...]}``: these
``guest``               ``"absent"``, ``"cooperative"``, ``"refusing"``, or ``{"model": ..., "after_ms": n}``
======================  =====================================================================================

Without ``guest`` there is one that cooperates after 10 ms where the command line has a kernel or a firmware
that boots disks, and none where ``-bios`` names a firmware of its own.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VARIABLE = "QEMUVM_SIM_FAULTS"
_KNOWN = {
    "launch", "crash_after", "hang_after", "disconnect_after", "slow_ms", "split", "storm", "unplug", "guest",
}  # fmt: skip


class Faults:
    """The faults of one process. Raises ValueError for a key or a value that means nothing."""

    def __init__(self, wanted: dict[str, Any] | None = None) -> None:
        self._wanted = wanted or {}
        unknown = sorted(self._wanted.keys() - _KNOWN)
        if unknown:
            raise ValueError(f"{VARIABLE}: no such fault: {', '.join(unknown)}")
        self.slow_ms: float = self._number("slow_ms")
        self.split = int(self._number("split"))
        self._commands = 0
        self.guest("absent")

    def _number(self, key: str) -> float:
        value = self._wanted.get(key, 0)
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise ValueError(f"{VARIABLE}: {key} is a number from 0, not {value!r}")
        return value

    def at_launch(self) -> bool:
        """End the process if it is to end at launch; return whether it is to hang instead."""
        launch = self._wanted.get("launch")
        if launch is None:
            return False
        if launch.get("stderr"):
            os.write(2, launch["stderr"].encode() + b"\n")
        if launch.get("hang"):
            return True
        _end(launch)
        return False

    def before_command(self) -> str:
        """Count a command and return what is to become of it: ``answer``, ``hang`` or ``disconnect``."""
        before, self._commands = self._commands, self._commands + 1
        crash = self._wanted.get("crash_after")
        if crash is not None and before >= crash["commands"]:
            _end(crash)
        for key, fate in (("hang_after", "hang"), ("disconnect_after", "disconnect")):
            after = self._wanted.get(key)
            if after is not None and before >= after:
                return fate
        return "answer"

    def storm(self) -> tuple[str, Any, int]:
        """Return event, data and count of the storm that comes before the first reply, once."""
        storm = self._wanted.get("storm")
        if storm is None or self._commands != 1:
            return "", None, 0
        return storm.get("event", "RTC_CHANGE"), storm.get("data"), storm["count"]

    def refuses(self, device: str) -> bool:
        """Return whether the guest is to refuse to let this device go."""
        unplug = self._wanted.get("unplug")
        if isinstance(unplug, dict):
            return device in unplug.get("refuse", ())
        return unplug == "refuse"

    def guest(self, default: str) -> tuple[str, float]:
        """Return the model of the guest, and after how many milliseconds it acts."""
        guest = self._wanted.get("guest", default)
        if isinstance(guest, str):
            guest = {"model": guest}
        model = guest.get("model", default)
        if model not in {"absent", "cooperative", "refusing"}:
            raise ValueError(f"{VARIABLE}: no such model of a guest: {model!r}")
        return model, guest.get("after_ms", 10)


def _end(how: dict[str, Any]) -> None:
    if "signal" in how:
        os.kill(os.getpid(), how["signal"])
    os._exit(how.get("status", 1))


def read() -> Faults:
    """Return the faults that the environment asks for."""
    text = os.environ.get(VARIABLE, "")
    if not text:
        return Faults()
    import json

    if not text.lstrip().startswith("{"):
        with open(text, encoding="utf-8") as file:
            text = file.read()
    wanted = json.loads(text)
    if not isinstance(wanted, dict):
        raise ValueError(f"{VARIABLE} is a JSON object, not {wanted!r}")  # noqa: TRY004
    return Faults(wanted)
