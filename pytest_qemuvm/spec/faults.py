"""What is to go wrong in a simulated QEMU: for tests of one's own handling of errors.

Where commands are counted, ``n`` are answered and what is to happen happens at the next one. All that come
over the VM's monitors count, those of the harness too; the negotiation does not.
"""

from __future__ import annotations

import json
import signal as signals
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pytest_qemuvm.errors import SpecError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_MOST_EVENTS = 1_000_000
_LONGEST_MS = 600_000
_MODELS = ("absent", "cooperative", "refusing")


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is to go wrong; only the kinds below mean anything."""

    key: ClassVar[str] = ""

    def value(self) -> Any:
        """Return what the simulator is told, as JSON has it."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class CrashAtLaunch(Fault):
    """QEMU ends before it greets anybody: with an exit status, or by a signal, after a message."""

    status: int = 1
    signal: int | None = None
    stderr: str = "qemu-system-x86_64: simulated crash at launch"
    key: ClassVar[str] = "launch"

    def __post_init__(self) -> None:
        _check_end(self.status, self.signal)
        _check_text("stderr", self.stderr)

    def value(self) -> Any:
        """Return what the simulator is told, as JSON has it."""
        return {**_end(self.status, self.signal), "stderr": self.stderr}


@dataclass(frozen=True, slots=True)
class HangAtLaunch(Fault):
    """QEMU runs, and greets nobody."""

    key: ClassVar[str] = "launch"

    def value(self) -> Any:
        """Return what the simulator is told, as JSON has it."""
        return {"hang": True}


@dataclass(frozen=True, slots=True)
class CrashAfter(Fault):
    """QEMU ends at a command, without an answer: by a signal, or with an exit status."""

    commands: int
    signal: int | None = signals.SIGKILL.value
    status: int = 1
    """The exit status where ``signal`` is None."""
    key: ClassVar[str] = "crash_after"

    def __post_init__(self) -> None:
        _check_count("commands", self.commands)
        _check_end(self.status, self.signal)

    def value(self) -> Any:
        """Return what the simulator is told, as JSON has it."""
        return {"commands": self.commands, **_end(self.status, self.signal)}


@dataclass(frozen=True, slots=True)
class HangAfter(Fault):
    """QEMU answers nothing more; it still ends by SIGTERM."""

    commands: int
    key: ClassVar[str] = "hang_after"

    def __post_init__(self) -> None:
        _check_count("commands", self.commands)

    def value(self) -> Any:
        """Return what the simulator is told, as JSON has it."""
        return self.commands


@dataclass(frozen=True, slots=True)
class DisconnectAfter(Fault):
    """QEMU closes the monitor instead of answering."""

    commands: int
    key: ClassVar[str] = "disconnect_after"

    def __post_init__(self) -> None:
        _check_count("commands", self.commands)

    def value(self) -> Any:
        """Return what the simulator is told, as JSON has it."""
        return self.commands


@dataclass(frozen=True, slots=True)
class SlowReplies(Fault):
    """Every reply comes late."""

    milliseconds: int
    key: ClassVar[str] = "slow_ms"

    def __post_init__(self) -> None:
        _check_count("milliseconds", self.milliseconds, least=1, most=_LONGEST_MS)

    def value(self) -> Any:
        """Return what the simulator is told, as JSON has it."""
        return self.milliseconds


@dataclass(frozen=True, slots=True)
class SplitPackets(Fault):
    """What QEMU says goes out in pieces of that many bytes."""

    size: int = 1
    key: ClassVar[str] = "split"

    def __post_init__(self) -> None:
        _check_count("size", self.size, least=1)

    def value(self) -> Any:
        """Return what the simulator is told, as JSON has it."""
        return self.size


@dataclass(frozen=True, slots=True)
class EventStorm(Fault):
    """That many events come before the reply to the first command."""

    count: int
    event: str = "RTC_CHANGE"
    data: Mapping[str, Any] | None = None
    key: ClassVar[str] = "storm"

    def __post_init__(self) -> None:
        _check_count("count", self.count, least=1, most=_MOST_EVENTS)
        _check_text("event", self.event)
        try:
            json.dumps(self.data)
        except (TypeError, ValueError) as error:
            raise SpecError(f"data={self.data!r} is no JSON: {error}") from error

    def value(self) -> Any:
        """Return what the simulator is told, as JSON has it."""
        data = {} if self.data is None else {"data": dict(self.data)}
        return {"event": self.event, "count": self.count, **data}


@dataclass(frozen=True, slots=True)
class RefuseUnplug(Fault):
    """The guest refuses to let devices go: those with these ids, or all where none is named."""

    devices: tuple[str, ...] = ()
    key: ClassVar[str] = "unplug"

    def __post_init__(self) -> None:
        given: object = self.devices
        if not isinstance(given, (tuple, list)) or not all(isinstance(each, str) for each in given):
            raise SpecError(f"devices={given!r} are no ids", hint='write devices=("disk0",)')
        object.__setattr__(self, "devices", tuple(given))

    def value(self) -> Any:
        """Return what the simulator is told, as JSON has it."""
        return {"refuse": list(self.devices)} if self.devices else "refuse"


@dataclass(frozen=True, slots=True)
class GuestModel(Fault):
    """What the guest does when it is asked to let a device go, or to power down."""

    model: Literal["absent", "cooperative", "refusing"]
    milliseconds: int = 10
    """How long it takes."""
    key: ClassVar[str] = "guest"

    def __post_init__(self) -> None:
        if self.model not in _MODELS:
            raise SpecError(f"{self.model!r} is no model of a guest", hint=nearest(str(self.model), _MODELS))
        _check_count("milliseconds", self.milliseconds, most=_LONGEST_MS)

    def value(self) -> Any:
        """Return what the simulator is told, as JSON has it."""
        return {"model": self.model, "after_ms": self.milliseconds}


def encoded(faults: Iterable[Fault]) -> str:
    """Return faults as the simulator reads them; nothing for none.

    Raises SpecError for what is no fault, and for two that cannot both happen.
    """
    told: dict[str, Any] = {}
    for fault in faults:
        given: object = fault
        if not isinstance(given, Fault) or not fault.key:
            raise SpecError(f"{fault!r} is no fault", hint="such as CrashAfter(3) or SlowReplies(50)")
        if fault.key in told:
            raise SpecError(f"{fault!r} and another fault of the same VM contradict each other")
        told[fault.key] = fault.value()
    return json.dumps(told, sort_keys=True) if told else ""


def _end(status: int, signal: int | None) -> dict[str, int]:
    return {"status": status} if signal is None else {"signal": int(signal)}


def _check_end(status: int, signal: int | None) -> None:
    _check_count("status", status, most=255)
    if signal is not None:
        try:
            signals.Signals(signal)
        except ValueError as error:
            raise SpecError(f"signal={signal!r} is no signal") from error


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str) or not value:
        raise SpecError(f"{name}={value!r} is not a text")


def _check_count(name: str, value: object, *, least: int = 0, most: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SpecError(f"{name}={value!r} is not a number from {least}")
    if most is not None and value > most:
        raise SpecError(f"{name}={value!r} is more than {most}")
