"""Interfaces without a machine: a test holds QEMU's end of a line to the switch."""

from __future__ import annotations

import itertools
import struct

_MARKS = itertools.count()
EVERYBODY = "ff:ff:ff:ff:ff:ff"
PATIENCE = 30.0
"""Seconds after which a frame that should have come will not come."""


def mac(number):
    return f"52:54:00:aa:00:{number:02x}"


def packed(address):
    return bytes.fromhex(address.replace(":", ""))


class Nic:
    """One end of a line."""

    def __init__(self, segment, number, ip=None, names=()):
        self.mac = mac(number)
        self.port = segment.connect(f"vm{number}/nic0", self.mac, ip, names)
        self.socket = self.port.renew_peer()
        self.socket.settimeout(PATIENCE)

    def renew(self):
        self.socket.close()
        self.socket = self.port.renew_peer()
        self.socket.settimeout(PATIENCE)

    def frame(self, target, payload, source=None, kind=0x88B5):
        target = target if isinstance(target, str) else target.mac
        return packed(target) + packed(source or self.mac) + struct.pack("!H", kind) + payload

    def send(self, target, payload, source=None):
        frame = self.frame(target, payload, source)
        self.socket.send(frame)
        return frame

    def receive(self):
        return self.socket.recv(1 << 17)

    def waiting(self):
        """Return the payloads of all frames that the switch has sent already."""
        return [frame[14:] for frame in self.came()]

    def came(self):
        """Return all frames that the switch has sent already."""
        found = []
        queued = True
        while queued:
            # Asked before: the queue may have moved into the socket since.
            queued = self.port.counters.waiting
            found += self._drain()
        return found

    def _drain(self):
        self.socket.setblocking(False)
        found = []
        try:
            while True:
                found.append(self.receive())
        except BlockingIOError:
            return found
        finally:
            self.socket.settimeout(PATIENCE)

    def until(self, last):
        """Return the payloads that come before that one."""
        found = []
        while (payload := self.receive()[14:]) != last:
            found.append(payload)
        return found

    def reaches(self, other):
        """Send a frame that nothing keeps from coming; all that was sent before has then been dealt with.

        Returns what came before it.
        """
        mark = b"mark %d" % next(_MARKS)
        self.send(other, mark)
        return other.until(mark)

    def reaches_all(self, *others):
        """Do so with a frame for everybody."""
        mark = b"mark %d" % next(_MARKS)
        self.send(EVERYBODY, mark)
        for other in others:
            other.until(mark)


def meet(*nics):
    """Let the switch learn where everybody is."""
    for nic in nics:
        nic.send(EVERYBODY, b"here")
        for other in nics:
            if other is not nic:
                assert other.receive()[14:] == b"here"


def pcap(path):
    """Return the times and frames of a capture, read as its format says."""
    data = path.read_bytes()
    assert struct.unpack_from("<IHHiIII", data) == (0xA1B23C4D, 2, 4, 0, 0, 262144, 1)
    place, found = 24, []
    while place < len(data):
        seconds, nanoseconds, kept, size = struct.unpack_from("<IIII", data, place)
        assert kept == size
        assert nanoseconds < 10**9
        found.append((seconds + nanoseconds / 1e9, data[place + 16 : place + 16 + size]))
        place += 16 + size
    return found
