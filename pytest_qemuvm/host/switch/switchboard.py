"""All segments of a session, on one thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_qemuvm.host.switch.reactor import Reactor
from pytest_qemuvm.host.switch.segment import Segment
from pytest_qemuvm.host.switch.services import Services
from pytest_qemuvm.spec.names import checked_name

if TYPE_CHECKING:
    from pytest_qemuvm.host.switch.leases import Leases
    from pytest_qemuvm.spec.segment import Addressing


class Switchboard:
    """Networks between machines, without a privilege of the host's. Its thread starts with the first port."""

    def __init__(self) -> None:
        self._reactor = Reactor()
        self._segments: list[Segment] = []

    def segment(self, name: str, addressing: Addressing | None, services: Services | None = None) -> Segment:
        """Make a network; without addressing it is a switch and nothing more.

        With ``services`` its address is there for these alone.
        """
        self._reactor.raise_failure()
        segment = Segment(self._reactor, checked_name(name, "network"), addressing, self._leases, services)
        self._segments = [*(other for other in self._segments if not other.closed), segment]
        return segment

    def services(self, ip: str) -> Services:
        """Make a book of services for several segments, on each of which the switch has that address."""
        return Services(self._reactor, ip)

    def _leases(self) -> list[Leases]:
        """Return the books of all segments that have one."""
        books = (segment.leases for segment in self._segments if not segment.closed)
        return [book for book in books if book is not None]

    def close(self) -> None:
        """Close all segments and end the thread. Idempotent. Raises what failed on it, as QemuVMError."""
        while self._segments:
            self._segments.pop().close()
        self._reactor.close()
