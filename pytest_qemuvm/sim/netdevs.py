"""The host's side of network interfaces: user-mode networking, and sockets that were handed over.

Forwarded ports are bound for real. Nothing is sent on a socket, and nobody reads what comes.
"""

from __future__ import annotations

from pytest_qemuvm.sim.words import NotModelled, QmpRefusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_qemuvm.sim.machine import Machine


def add(machine: Machine, arguments: dict[str, Any], passed: dict[str, int] | None = None) -> None:
    """Make a backend; ``passed`` are descriptors that a monitor was handed, by name. Raises QmpRefusal."""
    from pytest_qemuvm.sim.objects import well_formed

    name, kind = arguments["id"], arguments["type"]
    if not well_formed(name):
        raise QmpRefusal("Parameter 'id' expects an identifier")
    if kind not in {"user", "hubport", "dgram"}:
        raise NotModelled(f"network backends of type {kind!r}")
    if name in machine.netdevs:
        raise QmpRefusal(f"Duplicate ID '{name}'")
    on_port = arguments.get("netdev") if kind == "hubport" else None
    if on_port is not None:
        behind = machine.netdevs.get(on_port)
        if behind is None:
            raise QmpRefusal(f"netdev '{on_port}' not found")
        if behind["peer"] is not None or on_port in on_hubs(machine):
            raise NotModelled("a network backend that is connected twice, at which QEMU aborts")
    forwards: list[Any] = []
    try:
        for rule in arguments.get("hostfwd", ()):
            forwards += [_forward(rule["str"] if isinstance(rule, dict) else rule)]
    except QmpRefusal:
        for _, _, _, end in forwards:
            end.close()
        raise
    fd = _socket(name, arguments, passed) if kind == "dgram" else None
    machine.netdevs[name] = {
        "type": kind,
        "arguments": arguments,
        "forwards": forwards,
        "peer": None,
        "fd": fd,
        "up": True,
    }


def _socket(name: str, arguments: dict[str, Any], passed: dict[str, int] | None) -> int:
    """Return the descriptor of a socket, inherited or handed over under a name. Raises QmpRefusal."""
    import os

    local = arguments.get("local", {})
    if set(arguments) - {"type", "id", "local"} or local.get("type") != "fd":
        raise NotModelled("network backends on sockets that were not handed over")
    word = local["str"]
    if word.isdigit():
        fd = int(word)
    elif passed is None:
        raise QmpRefusal(f"Invalid file descriptor number '{word}'")
    elif word not in passed:
        raise QmpRefusal(f"File descriptor named '{word}' has not been found")
    else:
        fd = passed.pop(word)
    try:
        os.fstat(fd)
    except OSError as error:
        raise QmpRefusal(f"{name}: Can't use file descriptor {fd}: {error.strerror}") from error
    return fd


def on_hubs(machine: Machine) -> dict[str, int]:
    """Return the backends that are on a port of a hub, with its number."""
    ports = (netdev["arguments"] for netdev in machine.netdevs.values() if netdev["type"] == "hubport")
    return {port["netdev"]: port["hubid"] for port in ports if "netdev" in port}


def set_link(machine: Machine, name: str, *, up: bool) -> None:
    """Set the link of a backend, or of the interface it is behind, up or down. Raises QmpRefusal."""
    for backend, netdev in machine.netdevs.items():
        if name == backend or (netdev["peer"] is not None and netdev["peer"].id == name):
            netdev["up"] = up
            return
    raise QmpRefusal(f"Device '{name}' not found", "DeviceNotFound")


def _forward(rule: str) -> tuple[str, int, int, Any]:
    """Bind the host's side of a rule; return address, port, the guest's port and the socket."""
    kind, colon, rest = rule.partition(":")
    if not colon:
        raise QmpRefusal(f"Invalid host forwarding rule '{rule}' (No : separators)")
    host, _, guest = rest.partition("-")
    address, _, port = host.rpartition(":")
    if kind not in {"tcp", ""} or not port.isdigit() or not guest.rpartition(":")[2].isdigit():
        raise NotModelled(f"the forwarding rule {rule!r}")
    from _socket import AF_INET, SO_REUSEADDR, SOCK_STREAM, SOL_SOCKET, socket

    end = socket(AF_INET, SOCK_STREAM)
    end.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
    try:
        end.bind((address or "0.0.0.0", int(port)))  # noqa: S104  # what QEMU does without an address
        end.listen(1)
    except OSError as error:
        end.close()
        raise QmpRefusal(f"Could not set up host forwarding rule '{rule}'") from error
    bound: tuple[str, int] = end.getsockname()
    return bound[0], bound[1], int(guest.rpartition(":")[2]), end


def remove(machine: Machine, name: str) -> None:
    """Remove a backend. Raises QmpRefusal."""
    netdev = machine.netdevs.pop(name, None)
    if netdev is None:
        raise QmpRefusal(f"Device '{name}' not found", "DeviceNotFound")
    for _, _, _, end in netdev["forwards"]:
        end.close()
    if netdev["fd"] is not None:
        import os

        os.close(netdev["fd"])
    if netdev["peer"] is not None:
        # The interface still shows it.
        machine.gone_netdevs.append((name, netdev))
