"""Which processor can go, how it goes, and how it comes back."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pytest_qemuvm.errors import CommandError, UnplugRejected, VMStateError, WaitTimeout
from pytest_qemuvm.guest import waits
from pytest_qemuvm.machine.processors import emulates
from pytest_qemuvm.spec.devices import CpuSpec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_qemuvm.guest.agent import AgentChannel
    from pytest_qemuvm.host.deadline import Deadline
    from pytest_qemuvm.machine.hotdevice import HotDevice
    from pytest_qemuvm.machine.live import Live

_LOOK_SECONDS = 0.01
_NUMBER = "nproc"
_ONLINE_NUMBER = "grep -c ^processor /proc/cpuinfo"
"""It knows at once of a processor that came; what processes may run on follows."""
_CPUS = "/sys/devices/system/cpu"
_ONLINE = f"for cpu in {_CPUS}/cpu[1-9]*; do [ $(cat $cpu/online) = 1 ] && echo ${{cpu##*cpu}}; done"


class Processor(Protocol):
    """One that can be taken out of a guest, and put back."""

    @property
    def how(self) -> str:
        """In what way it goes."""
        ...

    def take_out(self, deadline: Deadline) -> int:
        """Take it out; return how many the guest has left."""
        ...

    def put_back(self, deadline: Deadline) -> None:
        """Put it back, and return when the guest has it."""


def chosen(live: Live, channel: AgentChannel, devices: Iterable[HotDevice], deadline: Deadline) -> Processor:
    """Return the processor that is to go. Raises VMStateError where there is none but the last."""
    if _number(channel, deadline) < 2:
        raise VMStateError(
            f"VM {live.plan.name!r} has one processor left: it cannot go", hint="give it more: cpus=2"
        )
    if emulates(live):
        online = channel.run(_ONLINE, deadline=deadline).stdout.split()
        if not online:
            raise VMStateError(f"the guest of {live.plan.name!r} lets none of its processors go")
        return TakenOffline(channel, max(map(int, online)))
    plugged = [device for device in devices if isinstance(device.spec, CpuSpec)]
    if plugged:
        return Plugged(live, channel, plugged[-1])
    present = [slot for slot in _slots(live) if "qom-path" in slot]
    # The first one is what the firmware runs on: QEMU never lets it go.
    first = min(present, key=_order)
    return FromTheStart(live, channel, max((slot for slot in present if slot is not first), key=_order))


@dataclass(slots=True)
class Plugged:
    """One that a test has plugged; its handle is good again afterwards."""

    live: Live
    channel: AgentChannel
    device: HotDevice
    how: str = "unplugged"

    def take_out(self, deadline: Deadline) -> int:
        """Unplug it."""
        number = _number(self.channel, deadline)
        self.device.unplug(deadline.remaining)
        return _await(self.channel, number - 1, deadline)

    def put_back(self, deadline: Deadline) -> None:
        """Plug it again."""
        if not self.device.present:
            number = _number(self.channel, deadline)
            self.live.hotplug.plug_again(self.device, deadline)
            _await(self.channel, number + 1, deadline)


@dataclass(slots=True)
class FromTheStart:
    """One of the command line. It has no id, so it goes by its path; another one comes in its place."""

    live: Live
    channel: AgentChannel
    slot: dict[str, Any]
    how: str = "unplugged"
    gone: bool = False

    def take_out(self, deadline: Deadline) -> int:
        """Unplug it; no event tells of its end, so QEMU is asked."""
        hotplug, path = self.live.hotplug, self.slot["qom-path"]
        with hotplug.turn(deadline):
            hotplug.await_settled(deadline)
            number = _number(self.channel, deadline)
            try:
                self.live.qmp.execute("device_del", {"id": path}, timeout=deadline)
            except CommandError as error:
                raise UnplugRejected(
                    f"QEMU refused to let the processor {path} go: {error.desc}", error.details, device=path
                ) from error
            pause = threading.Event()
            while self._present():
                if deadline.expired:
                    raise WaitTimeout(
                        f"the guest did not let the processor {path} go within {deadline.seconds:g} s",
                        waited_for="the processor to go",
                        seconds=deadline.seconds,
                    )
                pause.wait(_LOOK_SECONDS)
            self.gone = True
            hotplug.processors.lost_one()
            return _await(self.channel, number - 1, deadline)

    def put_back(self, deadline: Deadline) -> None:
        """Plug one like it; it belongs to the machine, as the first did, and to no test."""
        if self.gone:
            number = _number(self.channel, deadline)
            self.live.hotplug.plug(CpuSpec(), None, deadline).owner = None
            self.gone = False
            _await(self.channel, number + 1, deadline)

    def _present(self) -> bool:
        return any("qom-path" in slot for slot in _slots(self.live) if slot["props"] == self.slot["props"])


@dataclass(slots=True)
class TakenOffline:
    """One that the guest takes offline, because QEMU cannot let it go without harm to itself."""

    channel: AgentChannel
    number: int
    how: str = "offline in the guest: QEMU's emulator cannot take it out and in again"

    def take_out(self, deadline: Deadline) -> int:
        """Take it offline."""
        return self._switch("0", -1, deadline)

    def put_back(self, deadline: Deadline) -> None:
        """Take it online again; after a boot it is."""
        if self.channel.run(f"cat {self._file}", deadline=deadline).stdout.strip() == "0":
            self._switch("1", 1, deadline)

    @property
    def _file(self) -> str:
        return f"{_CPUS}/cpu{self.number}/online"

    def _switch(self, word: str, more: int, deadline: Deadline) -> int:
        before = _number(self.channel, deadline)
        done = self.channel.run(f"echo {word} >{self._file}", deadline=deadline)
        if not done.ok:
            raise VMStateError(f"the guest does not switch its processor {self.number}", done.report())
        return _await(self.channel, before + more, deadline)


def _slots(live: Live) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = live.qmp.execute("query-hotpluggable-cpus")
    return found


def _order(slot: dict[str, Any]) -> tuple[int, ...]:
    return tuple(slot["props"].get(f"{part}-id", 0) for part in ("node", "socket", "die", "core", "thread"))


def _number(channel: AgentChannel, deadline: Deadline) -> int:
    return int(channel.run(_ONLINE_NUMBER, deadline=deadline).stdout)


def _await(channel: AgentChannel, number: int, deadline: Deadline) -> int:
    """Wait until the guest has so many processors. Raises WaitTimeout."""
    waits.until_succeeds(channel, f"test $({_NUMBER}) -eq {number}", deadline, interval=0.01)
    return number
