"""The few commands of the human monitor that are modelled exactly."""

from __future__ import annotations

from pytest_qemuvm.sim.words import NotModelled

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_qemuvm.sim.machine import Machine

_USB = {
    "usb-kbd": ("480", "QEMU USB Keyboard"),
    "usb-mouse": ("480", "QEMU USB Mouse"),
    "usb-tablet": ("480", "QEMU USB Tablet"),
    "usb-storage": ("5000", "QEMU USB MSD"),
}
"""Speed in Mb/s on an xHCI controller, and product."""


def run(machine: Machine, line: str) -> str:
    """Return what the human monitor prints. Raises NotModelled."""
    words = line.split()
    if words[:1] == ["info"] and len(words) == 2 and words[1] in _INFO:
        return _INFO[words[1]](machine)
    raise NotModelled(f"the human monitor's command {line!r}")


def _version(machine: Machine) -> str:
    version = machine.archive.get("version")
    number = ".".join(str(version["qemu"][key]) for key in ("major", "minor", "micro"))
    return f"{number}{version['package']}\r\n"


def _status(machine: Machine) -> str:
    if machine.runstate.running:
        return "VM status: running\r\n"
    status = machine.runstate.status
    return f"VM status: paused{'' if status == 'paused' else f' ({status})'}\r\n"


def _name(machine: Machine) -> str:
    return f"{machine.name}\r\n" if machine.name else ""


def network(machine: Machine) -> str:
    """Return ``info network``: hubs, interfaces with their backends, then backends without."""
    from pytest_qemuvm.sim.netdevs import on_hubs

    text = _hubs(machine)
    known = [*machine.netdevs.items(), *machine.gone_netdevs]
    for device in machine.devices.all():
        backends = [(name, netdev) for name, netdev in known if netdev["peer"] is device]
        if device.has("netdev") and not any(netdev["type"] == "hubport" for _, netdev in backends):
            text += _interface(device)
            for backend, netdev in backends:
                text += f" \\ {_backend(backend, netdev)}"
    hubbed = on_hubs(machine)
    for backend, netdev in machine.netdevs.items():
        if netdev["peer"] is None and netdev["type"] != "hubport" and backend not in hubbed:
            text += _backend(backend, netdev)
    return text


def _hubs(machine: Machine) -> str:
    """Return the hubs, each with its ports and what is on them, the newest first."""
    hubs: dict[int, str] = {}
    for port, netdev in machine.netdevs.items():
        if netdev["type"] != "hubport":
            continue
        behind = netdev["arguments"].get("netdev")
        line = f" \\ {port}"
        if netdev["peer"] is not None:
            line += f": {_interface(netdev['peer'])}"
        elif behind in machine.netdevs:
            line += f": {_backend(behind, machine.netdevs[behind])}"
        else:
            line += "\r\n"
        number = netdev["arguments"]["hubid"]
        hubs[number] = line + hubs.get(number, "")
    return "".join(f"hub {number}\r\n{text}" for number, text in reversed(hubs.items()))


def _interface(device: Any) -> str:
    mac = device.given.get("mac", "52:54:00:12:34:56")
    return f"{device.id or device.driver}: index=0,type=nic,model={device.driver},macaddr={mac}\r\n"


def _backend(name: str, netdev: dict[str, Any]) -> str:
    if netdev["fd"] is not None:
        return f"{name}: index=0,type={netdev['type']},fd={netdev['fd']} unix\r\n"
    restrict = netdev["arguments"].get("restrict", False)
    on = restrict is True or restrict == "on"
    return f"{name}: index=0,type={netdev['type']},net=10.0.2.0,restrict={'on' if on else 'off'}\r\n"


def usernet(machine: Machine) -> str:
    """Return ``info usernet``: the forwarded ports."""
    from pytest_qemuvm.sim.netdevs import on_hubs

    text, hubs = "", on_hubs(machine)
    for name, netdev in machine.netdevs.items():
        if netdev["type"] != "user":
            continue
        text += f"Hub {hubs.get(name, -1)} ({name}):\r\n"
        text += "  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n"
        for address, port, guest, end in netdev["forwards"]:
            text += (
                f"  {'TCP[HOST_FORWARD]':<17} {end.fileno():>3} {address:>15} {port:>5} {'10.0.2.15':>15} "
                f"{guest:>5} {0:>5} {0:>5}\r\n"
            )
    return text


def usb(machine: Machine) -> str:
    """Return ``info usb``: the devices by their ports."""
    text = ""
    for number, bus in enumerate(bus for bus in machine.devices.buses if bus.kind == "usb-bus"):
        for device in sorted(bus.children, key=lambda device: device.usb_port):
            known = _USB.get(device.driver)
            if known is None:
                raise NotModelled(f"'info usb' with a {device.driver}")
            speed, product = known
            text += f"  Device {number}.0, Port {device.usb_port}, Speed {speed} Mb/s, Product {product}"
            text += f", ID: {device.id}\r\n" if device.id is not None else "\r\n"
    return text


_INFO = {
    "network": network,
    "usernet": usernet,
    "usb": usb,
    "version": _version,
    "status": _status,
    "name": _name,
}
