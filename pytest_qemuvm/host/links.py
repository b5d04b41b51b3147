"""Network devices of the host: bridges and TAPs, made and removed by iproute2, watched by the reaper."""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import threading
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_qemuvm.errors import CapabilityError, NetworkExists, QemuVMError
from pytest_qemuvm.host.capabilities import may_administer_networks
from pytest_qemuvm.plan.links import removal

if TYPE_CHECKING:
    from collections.abc import Iterable
    from ipaddress import IPv4Network

    from pytest_qemuvm.host.deadline import Deadline
    from pytest_qemuvm.host.reaper import Reaper
    from pytest_qemuvm.plan.links import Words

IP_SECONDS = 20.0
"""How long one command of iproute2's may take; it takes milliseconds."""
TUN = "/dev/net/tun"
_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000
_ASK_SECONDS = 0.2
"""After how long it is asked again who has an address."""


class HostLinks:
    """The network devices of a session."""

    def __init__(self, reaper: Reaper) -> None:
        self._reaper = reaper
        self._lock = threading.Lock()
        self._names: dict[str, None] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Those that are there."""
        with self._lock:
            return tuple(self._names)

    @staticmethod
    def check_allowed() -> None:
        """Raise CapabilityError where this process may not make network devices."""
        if not may_administer_networks():
            raise CapabilityError(
                "this process may not make network devices",
                "CAP_NET_ADMIN is not among its effective capabilities (/proc/self/status)",
                "run as root, or in a network namespace of your own: unshare --user --map-root-user --net",
            )
        if not os.access(TUN, os.R_OK | os.W_OK):
            raise CapabilityError(f"{TUN} cannot be opened", hint="load the module tun, or give access to it")

    def make(self, name: str, commands: Iterable[Words]) -> None:
        """Make a device by these commands; on failure nothing is left of it.

        Raises NetworkExists where there is one of that name, CapabilityError, QemuVMError.
        """
        if exists(name):
            raise NetworkExists(
                f"there is a network device {name!r} on this host, and it is not the harness's",
                hint="choose another name: network_factory(device=...)",
            )
        self._reaper.watch_link(name)
        is_made = False
        try:
            for command in commands:
                _run(command)
                if not is_made:
                    is_made = True
                    with self._lock:
                        self._names[name] = None
        except BaseException:
            if is_made:
                self.remove(name)
            else:
                # Perhaps somebody else's, who was faster.
                self._reaper.forget_link(name)
            raise

    def remove(self, name: str) -> None:
        """Remove a device that was made here. Idempotent. Raises QemuVMError where it stays."""
        with self._lock:
            if name not in self._names:
                return
        try:
            if exists(name):
                _run(removal(name))
        except QemuVMError:
            if exists(name):
                raise
        with self._lock:
            self._names.pop(name, None)
        self._reaper.forget_link(name)


def host_subnets() -> list[IPv4Network]:
    """Return the networks to which the host has a way of its own, the one to everywhere left out."""
    from ipaddress import IPv4Network  # noqa: PLC0415  # see spec/addresses

    found = []
    with Path("/proc/net/route").open(encoding="ascii") as file:
        for line in list(file)[1:]:
            words = line.split()
            network, mask = (socket.ntohl(int(words[column], 16)) for column in (1, 7))
            if mask:
                found.append(IPv4Network((network, mask.bit_count())))
    return found


def exists(name: str) -> bool:
    """Return whether the host has a network device of that name."""
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True


def open_tap(name: str) -> FileIO:
    """Open a TAP that is there: what is written to it the host receives, and the other way round.

    Raises QemuVMError.
    """
    try:
        tun = FileIO(TUN, "r+")
        try:
            fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
        except BaseException:
            tun.close()
            raise
    except OSError as error:
        raise QemuVMError(f"the TAP {name} cannot be opened", str(error)) from error
    return tun


def ask(device: str, ip: str, deadline: Deadline) -> str | None:
    """Ask by ARP who has an address at the other end of a device; return his MAC address, None for nobody.

    It asks without an address of its own, as one does who looks whether an address is free (RFC 5227). Raises
    QemuVMError where the device cannot be listened on.
    """
    from pytest_qemuvm.host.switch import frames  # noqa: PLC0415  # 5 ms that only a network should cost

    wanted = socket.inet_aton(ip)
    try:
        line = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(frames.ARP))
    except OSError as error:
        raise QemuVMError(f"nobody can be asked on {device}", str(error), "CAP_NET_RAW is needed") from error
    with line:
        line.bind((device, frames.ARP))
        own = line.getsockname()[4]
        question = frames.Arp(frames.ASKS, own, bytes(4), bytes(6), wanted).encoded()
        frame = frames.Ethernet(frames.BROADCAST, own, frames.ARP, question).encoded()
        while not deadline.expired:
            with suppress(OSError):  # nobody is at the other end yet
                line.send(frame)
            turn = deadline.sooner(_ASK_SECONDS)
            while not turn.expired and select.select([line], [], [], turn.remaining)[0]:
                heard = frames.ethernet(line.recv(2048))
                answer = frames.arp(heard.payload) if heard is not None else None
                if answer is not None and answer.operation == frames.ANSWERS and answer.sender == wanted:
                    return frames.mac_text(answer.sender_mac)
    return None


def _run(command: Words) -> None:
    """Run a command of iproute2's. Raises CapabilityError, QemuVMError."""
    from pytest_qemuvm.host.bounded import run_bounded  # noqa: PLC0415  # as in ask()

    try:
        done = run_bounded(command, seconds=IP_SECONDS)
    except OSError as error:
        raise CapabilityError(
            "there is no program ip on this host", str(error), "install the package iproute2"
        ) from error
    if not done.ok:
        kind = NetworkExists if "exists" in done.stderr or "busy" in done.stderr else QemuVMError
        raise kind("a network device could not be set up", done.evidence())
