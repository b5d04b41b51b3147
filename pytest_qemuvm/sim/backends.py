"""Character devices made: from the command line and from QMP."""

from __future__ import annotations

from _socket import AF_UNIX, SOCK_STREAM, socket

from pytest_qemuvm.sim.chardev import Chardev, FileChardev, SocketChardev
from pytest_qemuvm.sim.words import LaunchNotModelled, LaunchRefusal, NotModelled, QmpRefusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_qemuvm.sim.machine import Machine
    from pytest_qemuvm.sim.monitor import Monitor


def from_argument(machine: Machine, value: str) -> Chardev:
    """Make what ``-chardev`` names. Raises LaunchRefusal."""
    from pytest_qemuvm.sim.keyval import option

    entry: dict[str, Any] = option(value, "backend")
    kind, name = entry.get("backend"), entry.get("id")
    if kind is None:
        raise LaunchRefusal(f'-chardev {value}: chardev: "{name}" missing backend')
    if kind not in _kinds(machine):
        raise LaunchRefusal(f"-chardev {value}: '{kind}' is not a valid char driver name")
    if name is None:
        raise LaunchRefusal(f"-chardev {value}: chardev: no id specified")
    if name in machine.chardevs:
        raise LaunchRefusal(f"-chardev {value}: Duplicate ID '{name}' for chardev")
    log: dict[str, Any] = {"logfile": entry.get("logfile"), "append": entry.get("logappend") == "on"}
    if kind == "socket" and ("fd" in entry or "path" in entry):
        return _socket(machine, name, entry, log)
    if kind == "null":
        chardev = Chardev(name, **log)
    elif kind == "file" and "path" in entry:
        chardev = FileChardev(name, entry["path"], **log)
    else:
        raise LaunchNotModelled(f"the character device {value!r}")
    machine.chardevs[name] = chardev
    return chardev


def _kinds(machine: Machine) -> set[str]:
    text = machine.archive.get("printed/chardevs")
    return {line.strip() for line in text.splitlines()[1:]}


def _socket(machine: Machine, name: str, entry: dict[str, Any], log: dict[str, Any]) -> Chardev:
    server = entry.get("server") == "on"
    if "fd" in entry:
        try:
            end = socket(AF_UNIX, SOCK_STREAM, 0, int(entry["fd"]))
            end.getsockname()
        except (OSError, ValueError) as error:
            what = f"File descriptor '{entry['fd']}' is not a socket"
            raise QmpRefusal(f"Failed to add chardev '{name}': {what}") from error
        return _started(SocketChardev(name, machine.loop, end, **log), machine)
    return _started(_at_path(machine, name, entry["path"], log, server=server), machine)


def _at_path(machine: Machine, name: str, path: str, log: dict[str, Any], *, server: bool) -> SocketChardev:
    end = socket(AF_UNIX, SOCK_STREAM)
    try:
        if server:
            import os

            try:
                os.unlink(path)
            except OSError:
                pass
            end.bind(path)
            end.listen(1)
        else:
            end.connect(path)
    except OSError as error:
        end.close()
        what = "bind socket to" if server else "connect to"
        quoted = path if server else f"'{path}'"
        raise QmpRefusal(
            f"Failed to add chardev '{name}': Failed to {what} {quoted}: {error.strerror}"
        ) from error
    return SocketChardev(name, machine.loop, end, path=path if server else "", **log)


def _started(chardev: SocketChardev, machine: Machine) -> SocketChardev:
    machine.chardevs[chardev.name] = chardev
    chardev.start()
    return chardev


def from_qmp(machine: Machine, name: str, backend: dict[str, Any], monitor: Monitor) -> None:
    """Make what ``chardev-add`` names. Raises QmpRefusal."""
    kind, data = backend["type"], backend["data"]
    log: dict[str, Any] = {"logfile": data.get("logfile"), "append": bool(data.get("logappend"))}
    if kind == "null":
        machine.chardevs[name] = Chardev(name, **log)
    elif kind == "file":
        try:
            machine.chardevs[name] = FileChardev(name, data["out"], **log)
        except OSError as error:
            raise QmpRefusal(
                f"Failed to add chardev '{name}': Could not open '{data['out']}': {error.strerror}"
            ) from error
    elif kind == "socket" and data["addr"]["type"] == "unix":
        server = data.get("server", True)
        if server and data.get("wait"):
            raise NotModelled("a character device that waits for its client")
        path = data["addr"]["data"]["path"]
        _started(_at_path(machine, name, path, log, server=server), machine)
    elif kind == "socket" and data["addr"]["type"] == "fd":
        _started(_from_descriptor(machine, name, data["addr"]["data"]["str"], monitor, log), machine)
    else:
        raise NotModelled(f"character devices of type {kind!r}")


def _from_descriptor(
    machine: Machine, name: str, wanted: str, monitor: Monitor, log: dict[str, Any]
) -> SocketChardev:
    fd = monitor.descriptors.pop(wanted, None)
    if fd is None:
        raise QmpRefusal(
            f"Failed to add chardev '{name}': File descriptor named '{wanted}' has not been found"
        )
    return SocketChardev(name, machine.loop, socket(AF_UNIX, SOCK_STREAM, 0, fd), **log)
