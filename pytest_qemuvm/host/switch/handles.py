"""What a segment gives out: ports, rules and captures, each with its own way to end it."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Self

from pytest_qemuvm.errors import HostFileError, InUse
from pytest_qemuvm.host.switch import frames
from pytest_qemuvm.host.switch.stages import Impaired

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_qemuvm.host.switch.fabric import Fabric
    from pytest_qemuvm.host.switch.jack import Counters, Jack
    from pytest_qemuvm.host.switch.pcap import Writer
    from pytest_qemuvm.host.switch.reactor import Reactor
    from pytest_qemuvm.host.switch.stages import Stage


class Port:
    """A place on a segment, for one interface of one machine, however often its QEMU is started."""

    def __init__(
        self, reactor: Reactor, fabric: Fabric, jack: Jack, mac: str, ip: str | None, names: tuple[str, ...]
    ) -> None:
        self.jack = jack
        self.mac = mac
        self.ip = ip
        self.names = names
        self.closed = False
        self._reactor = reactor
        self._fabric = fabric

    def __repr__(self) -> str:
        return f"<port {self.label} {self.mac}{' closed' if self.closed else ''}>"

    @property
    def label(self) -> str:
        """Whose interface it is."""
        return self.jack.label

    @property
    def counters(self) -> Counters:
        """What has passed so far."""
        return self._reactor.call(self.jack.counters) if not self.closed else self.jack.counters()

    def renew_peer(self) -> socket.socket:
        """Return QEMU's end of a new line, and end the one before; the caller closes it.

        What waited for a QEMU before is dropped with its line.
        """

        def renew() -> socket.socket:
            if self.closed:
                raise InUse(f"the port {self.label} is closed", holder=self.label)
            return self.jack.renew()

        return self._reactor.call(renew)

    def take_over(self, other: Port) -> None:
        """Go on with another port's line, whose QEMU stays on it; the other port has none then."""
        self._reactor.call(lambda: self.jack.take_over(other.jack))

    def hang_up(self) -> None:
        """Note that the machine has ended: so does what it had with services. Idempotent."""
        self._reactor.undo(lambda: self._fabric.lost(self.jack))

    def part(self) -> None:
        """Note that the machine is what it was some time ago: what it had with services is reset."""

        def act() -> None:
            station = self._fabric.station
            if station is not None and station.exchange is not None:
                station.exchange.part(self._fabric.behind(self.jack))

        self._reactor.undo(act)

    def close(self) -> None:
        """Take the port out of its segment. Idempotent."""

        def end() -> None:
            self.closed = True
            self.jack.unplug()
            self._fabric.unplug(self.jack)
            if self._fabric.station is not None:
                self._fabric.station.leases.leave(frames.mac_bytes(self.mac))

        if not self.closed:
            self._reactor.undo(end)
            self.closed = True


class Rule:
    """Something that happens to frames until it is removed."""

    def __init__(self, reactor: Reactor, fabric: Fabric, stage: Stage) -> None:
        self._reactor = reactor
        self._fabric = fabric
        self._stage = stage

    @property
    def hits(self) -> int:
        """Frames that it dropped, or changed the way of, so far; one for everybody counts once for each."""
        return self._stage.hits

    @property
    def counts(self) -> Mapping[str, int]:
        """What it did, by kind: dropped, lost, duplicated, reordered, delayed, slowed, overflowed."""
        return MappingProxyType(dict(self._stage.counts))

    @property
    def seed(self) -> int | None:
        """What the dice of an impairment began with; None for a rule that throws none."""
        return self._stage.seed if isinstance(self._stage, Impaired) else None

    def remove(self) -> None:
        """End it; frames that it has held back go on at once. Idempotent."""
        self._reactor.undo(lambda: self._fabric.remove_stage(self._stage))


class Capture:
    """Frames that are being written to a file."""

    def __init__(self, reactor: Reactor, place: list[Writer], writer: Writer, path: Path) -> None:
        self.path = path
        self.closed = False
        self._reactor = reactor
        self._place = place
        self._writer = writer

    @property
    def frames(self) -> int:
        """How many frames have been written so far."""
        return self._writer.frames

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, _error: object, _traceback: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what is left and close the file. Idempotent. Raises HostFileError if not all was written."""
        closed = self.closed
        self.abandon()
        error = self._writer.error
        if error is not None and not closed:
            raise HostFileError(f"not all frames could be written to {self.path}", str(error)) from error

    def abandon(self) -> None:
        """Close the file, whatever has become of it."""

        def end() -> None:
            if self._writer in self._place:
                self._place.remove(self._writer)

        if not self.closed:
            self._reactor.undo(end)
            self.closed = True
            self._writer.close()
