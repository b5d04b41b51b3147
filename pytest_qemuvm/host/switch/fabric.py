"""What a switch does with a frame: learn where it came from, find out where it is to go, obey the rules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_qemuvm.host.switch import ndp
from pytest_qemuvm.host.switch.pcap import Ring

if TYPE_CHECKING:
    from pytest_qemuvm.host.switch.jack import Jack
    from pytest_qemuvm.host.switch.pcap import Writer
    from pytest_qemuvm.host.switch.reactor import Reactor
    from pytest_qemuvm.host.switch.stages import Stage
    from pytest_qemuvm.host.switch.station import Station

LEARNED = 4096
"""Addresses that a segment remembers. One that invents addresses makes it forget, not grow."""


class Fabric:
    """The inside of a segment. Everything here runs on the reactor's thread."""

    def __init__(self, reactor: Reactor, station: Station | None) -> None:
        self.reactor = reactor
        self.station = station
        self.jacks: tuple[Jack, ...] = ()
        self.ring = Ring()
        self.captures: list[Writer] = []
        self._stages: tuple[Stage, ...] = ()
        self._learned: dict[bytes, Jack] = {}
        self._chains: dict[tuple[Jack, Jack], tuple[Stage, ...]] = {}

    def plug(self, jack: Jack) -> None:
        """Take a line into the segment."""
        self.jacks = (*self.jacks, jack)

    def lost(self, jack: Jack) -> None:
        """Note that there is no machine at a line any more, or another run of it."""
        if self.station is not None:
            self.station.lost(self.behind(jack))

    def behind(self, jack: Jack) -> list[bytes]:
        """Return the addresses that a line is known to lead to."""
        return [mac for mac, at in self._learned.items() if at is jack]

    def unplug(self, jack: Jack) -> None:
        """Take a line out of the segment, and forget what was learned of it."""
        self.jacks = tuple(other for other in self.jacks if other is not jack)
        self._learned = {mac: at for mac, at in self._learned.items() if at is not jack}
        self._changed()

    def add_stage(self, stage: Stage) -> None:
        """Have a rule decide about frames, after those that are there."""
        self._stages = (*self._stages, stage)
        self._changed()

    def remove_stage(self, stage: Stage) -> None:
        """Have a rule decide no more; what it has held back goes on at once."""
        if stage in self._stages:
            stage.let_go()
            self._stages = tuple(other for other in self._stages if other is not stage)
            self._changed()

    def enter(self, source: Jack, frame: bytes) -> None:
        """Take a frame from a line, and bring it to where it belongs."""
        self._record(frame)
        target = source.flows.get(frame[:12])
        if target is not None:
            target.transmit(frame)
        else:
            self._switch(source, frame)

    def send(self, frame: bytes) -> None:
        """Send a frame of the station's own. Rules are for machines; this is not one."""
        self._record(frame)
        known = self._learned.get(frame[:6])
        for target in self.jacks if known is None else (known,):
            target.transmit(frame)

    def resume(self, stage: Stage, source: Jack, target: Jack, frame: bytes) -> None:
        """Go on with a frame that a stage has held back, under the rules that hold now."""
        chain = self._chain(source, target)
        self._through(chain[chain.index(stage) + 1 :], source, target, frame)

    def close(self) -> None:
        """Close all lines and forget everything."""
        for stage in self._stages:
            stage.forget()
        for jack in self.jacks:
            jack.unplug()
        if self.station is not None:
            self.station.close()
        self.jacks = self._stages = ()
        self._learned.clear()
        self._changed()

    def _switch(self, source: Jack, frame: bytes) -> None:
        destination, sender = frame[:6], frame[6:12]
        station = self.station
        own = None if station is None else station.mac
        if not sender[0] & 1 and sender != own:
            self._learn(sender, source)
        if destination[0] & 1 or destination == own:
            self._hear(source, frame)
            if destination == own:
                return
        target = self._learned.get(destination)
        if target is None:
            for other in self.jacks:
                if other is not source:
                    self._through(self._chain(source, other), source, other, frame)
        elif target is not source:  # what is behind the same line has heard it already
            chain = self._chain(source, target)
            if not chain and sender in self._learned:
                source.flows[frame[:12]] = target
            self._through(chain, source, target, frame)

    def _learn(self, mac: bytes, jack: Jack) -> None:
        if self._learned.get(mac) is jack:
            return
        if len(self._learned) >= LEARNED:
            del self._learned[next(iter(self._learned))]
        self._learned[mac] = jack
        self._changed()

    def _hear(self, source: Jack, frame: bytes) -> None:
        answer = None if self.station is None else self.station.hear(frame)
        if answer is None and source.no_router is not None:
            answer = ndp.no_router(frame, source.no_router)
        if answer is not None:
            self.send(answer)

    def _through(self, chain: tuple[Stage, ...], source: Jack, target: Jack, frame: bytes) -> None:
        for stage in chain:
            if not stage.admit(frame, source, target):
                return
        target.transmit(frame)

    def _chain(self, source: Jack, target: Jack) -> tuple[Stage, ...]:
        """Return the rules that are for frames from the one to the other, the oldest first."""
        chain = self._chains.get((source, target))
        if chain is None:
            chain = tuple(stage for stage in self._stages if stage.concerns(source, target))
            self._chains[source, target] = chain
        return chain

    def _changed(self) -> None:
        self._chains.clear()
        for jack in self.jacks:
            jack.flows.clear()

    def _record(self, frame: bytes) -> None:
        self.ring.add(frame)
        for capture in self.captures:
            capture.write(frame)
