"""Find what a dead session has left, and remove it. Used by the reaper and by ``qemuvm gc``.

On the standard library alone, and on little of it: the reaper is a process of its own that imports this
module and nothing else of ours, so what only a sweep needs is imported in the sweep.

A session lives as long as somebody holds the lock on its lease, ``<root>/<tag>.lease``. Whoever has taken the
lock of a lease, and only he, may remove what is called by its tag, the lease last.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

TAG_VARIABLE = "QEMUVM_SESSION"
"""Every process of a session carries the session's tag in its environment under this name."""
LEASE = ".lease"
"""What a lease's name ends with; the tag comes before it."""
RECORD = "session.json"
"""The file in a session's directory that lists what it has."""

PATIENCE = 50
"""Rounds of looking for processes; each kills all it finds, a process that forks needs a second one."""
GRACE_AFTER_KILL = 5.0
"""Seconds for the kernel to bury one round of killed processes; one that is stuck in a driver may stay."""


# Processes


def start_ticks(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None where it is gone or a zombie."""
    try:
        state, ticks = stat(pid)
    except OSError:
        return None
    return None if state in (b"Z", b"X") else ticks


def stat(pid: int) -> tuple[bytes, int]:
    """Return the state letter and the start in ticks of a process, a zombie too. Raises OSError."""
    with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123  # pathlib is not loaded here
        # The name, in parentheses, may hold anything, further parentheses too.
        fields = file.read().rpartition(b")")[2].split()
    return fields[0], int(fields[19])


def carries(pid: int, tag: str) -> bool:
    """Return whether a process has the tag in its environment."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123
            return f"{TAG_VARIABLE}={tag}".encode() in file.read().split(b"\0")
    except OSError:  # gone, or somebody else's
        return False


def tagged(tag: str) -> list[int]:
    """Return pids of other processes that carry the tag."""
    pids = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]  # noqa: PTH208
    return [pid for pid in pids if pid != os.getpid() and carries(pid, tag)]


def end_processes(tag: str, known: Iterable[tuple[int, int]] = ()) -> list[int]:
    """Kill the known (pid, start in ticks) and all that carry the tag; return the pids that were killed."""
    killed: list[int] = []
    identities = dict(known)
    for _ in range(PATIENCE):
        pidfds = []
        for pid in {*(pid for pid, ticks in identities.items() if start_ticks(pid) == ticks), *tagged(tag)}:
            pidfd = _killed(pid, tag, identities.get(pid))
            if pidfd is not None:
                pidfds.append(pidfd)
                killed.append(pid)
        if not pidfds:
            break
        _await_end(pidfds)
    return sorted(set(killed))


def _killed(pid: int, tag: str, ticks: int | None) -> int | None:
    """Kill a process if it still is the one that was found; return its pidfd."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return None
    try:
        # The pid may have passed to another process between the search and the pidfd. It cannot any more.
        if (ticks is not None and start_ticks(pid) == ticks) or carries(pid, tag):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            return pidfd
    except OSError:
        pass
    os.close(pidfd)
    return None


def _await_end(pidfds: list[int]) -> None:
    import time  # noqa: PLC0415  # only a sweep needs it, as all that is imported below

    until = time.monotonic() + GRACE_AFTER_KILL
    for pidfd in pidfds:
        select.select([pidfd], [], [], max(0.0, until - time.monotonic()))
        os.close(pidfd)


# Files and network interfaces


def remove_tree(path: str) -> None:
    """Remove a directory with all that is in it; what resists stays."""
    import shutil  # noqa: PLC0415  # as above

    shutil.rmtree(path, ignore_errors=True)


def remove_link(name: str) -> bool:
    """Remove a network interface, such as a TAP; return whether there is none of that name any more."""
    import socket  # noqa: PLC0415  # as above
    import struct  # noqa: PLC0415

    try:
        index = socket.if_nametoindex(name)
    except OSError:
        return True
    # RTM_DELLINK with NLM_F_REQUEST and NLM_F_ACK, and an ifinfomsg that names the interface by its index.
    message = struct.pack("=IHHIIBxHiII", 32, 17, 0x1 | 0x4, 1, 0, socket.AF_UNSPEC, 0, index, 0, 0)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:  # 0: NETLINK_ROUTE
            netlink.settimeout(GRACE_AFTER_KILL)
            netlink.send(message)
            (error,) = struct.unpack_from("=i", netlink.recv(4096), 16)
    except OSError:
        return False
    return bool(error == 0)


# Leases


def seize(path: str) -> int | None:
    """Take the lock of a lease that nobody holds; return its descriptor, or None where it is held or gone."""
    try:
        return take(path)
    except OSError:
        return None


def take(path: str, flags: int = 0) -> int | None:
    """Take the lock of a lease; return its descriptor, or None where it is held or was just unlinked.

    With ``flags=os.O_CREAT`` its file is made if it is missing. Raises OSError where it cannot be opened.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Its holder may have unlinked the file between our open and our lock: then it locks nothing.
        if is_still(path, descriptor):
            return descriptor
    except BlockingIOError:
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def is_still(path: str, descriptor: int) -> bool:
    """Return whether the file of that name is the one that is open, not one made after it was unlinked."""
    try:
        there, mine = os.stat(path), os.fstat(descriptor)  # noqa: PTH116
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)


def give_up(path: str, descriptor: int) -> None:
    """Unlink a lease whose lock is held by that descriptor, then let the lock go."""
    try:
        if is_still(path, descriptor):
            os.unlink(path)  # noqa: PTH108
    except OSError:
        pass
    finally:
        os.close(descriptor)


def leases(root: str) -> list[str]:
    """Return the tags of all leases below a root, living and dead."""
    try:
        names = os.listdir(root)  # noqa: PTH208
    except OSError:
        return []
    return sorted(name.removesuffix(LEASE) for name in names if name.endswith(LEASE))


def boot_id() -> str:
    """Return a word that is another one after each boot of the host: pids and ticks mean nothing across."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:  # noqa: PTH123
        return file.read().strip()


def read_json(path: str) -> dict[str, Any]:
    """Return what a lease or a record says; nothing where it cannot be read."""
    import json  # noqa: PLC0415  # as above

    try:
        with open(path, "rb") as file:  # noqa: PTH123
            content = json.loads(file.read() or b"{}")
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def recorded(root: str, tag: str) -> tuple[list[tuple[int, int]], list[str]]:
    """Return the processes and network interfaces that a session's record names, if it is of this boot."""
    record = read_json(f"{root}/{tag}/{RECORD}")
    if record.get("boot") != boot_id():
        return [], []
    try:
        processes = [(int(pid), int(ticks)) for pid, ticks in record.get("processes", ())]
        return processes, [str(name) for name in record.get("links", ())]
    except (TypeError, ValueError):
        return [], []


def collect(root: str) -> list[str]:
    """Remove what the dead sessions below a root have left; return their tags. The living are not touched."""
    removed = []
    for tag in leases(root):
        descriptor = seize(f"{root}/{tag}{LEASE}")
        if descriptor is None:
            continue
        clear(root, tag, descriptor)
        removed.append(tag)
    return removed


def clear(root: str, tag: str, descriptor: int) -> list[int]:
    """Remove what a dead session left, its lease last, whose lock is held; return the pids killed.

    Where files resist, the lease stays, so that a later sweep comes back to them.
    """
    directory = f"{root}/{tag}"
    killed: list[int] = []
    try:
        processes, links = recorded(root, tag)
        killed = end_processes(tag, processes)
        for name in links:
            remove_link(name)
        remove_tree(directory)
    finally:
        if os.path.lexists(directory):
            os.close(descriptor)
        else:
            give_up(f"{root}/{tag}{LEASE}", descriptor)
    return killed


def remove_root(root: str) -> None:
    """Remove the directory of all sessions if none is left in it."""
    try:
        os.rmdir(root)  # noqa: PTH106
    except OSError:
        return
