"""What a QEMU's devices and objects are: their properties, and what becomes of each that is tried out."""

from __future__ import annotations

import re
import subprocess
from typing import Any

from pytest_qemuvm.sim.record_asked import LEAN, Recorded

_LINE = re.compile(r'^name "([^"]+)"(?:, bus ([^,\s]+))?(?:, alias "([^"]+)")?(.*)$', re.MULTILINE)
MACHINE = (
    *("-machine", "q35,smm=off,vmport=off,sata=off", "-accel", "tcg", "-cpu", "max"),
    *("-smp", "cpus=1,maxcpus=4", "-m", "size=256M,slots=4,maxmem=4352M"),
    *(
        "-device",
        "pcie-root-port,id=rp0,chassis=1,addr=10",
        "-device",
        "virtio-serial-pci,id=vserial,addr=11",
    ),
    *("-device", "virtio-scsi-pci,id=scsi,addr=12", "-device", "qemu-xhci,id=usb,addr=13"),
)
BUSES = {"PCI": "rp0", "usb-bus": "usb.0", "SCSI": "scsi.0", "virtio-serial-bus": "vserial.0"}
BACKENDS: dict[str, tuple[str, dict[str, Any], str]] = {
    "drive": ("blockdev-add", {"driver": "null-co", "node-name": "node", "size": 1 << 20}, "node"),
    "netdev": ("netdev_add", {"type": "user", "id": "net"}, "net"),
    "chardev": ("chardev-add", {"id": "char", "backend": {"type": "null", "data": {}}}, "char"),
    "memdev": (
        "object-add",
        {"qom-type": "memory-backend-ram", "id": "mem", "size": 128 << 20},
        "mem",
    ),
    "rng": ("object-add", {"qom-type": "rng-builtin", "id": "rng"}, "rng"),
    "iothread": ("object-add", {"qom-type": "iothread", "id": "thread"}, "thread"),
}
"""What a property names, how that is made, and its name."""
_OPTIONAL = frozenset({"iothread", "netdev"})


def record(binary: str) -> dict[str, Any]:
    """Return a piece for each device that a user may name and for each object."""
    pieces: dict[str, Any] = {}
    text = subprocess.run(
        [binary, "-machine", "none", "-device", "help"], capture_output=True, text=True, check=True
    ).stdout
    aliases = {}
    with Recorded(binary, "-machine", "none") as qemu:
        devices = {entry["name"] for entry in qemu.ask("qom-list-types", {"implements": "device"})}
        objects = {entry["name"] for entry in qemu.ask("qom-list-types", {"implements": "user-creatable"})}
    for name in sorted(devices):
        listed = _properties(binary, "device-list-properties", name)
        if listed is not None:
            pieces[f"device/{name}"] = {"properties": listed}
    for name in sorted(objects - devices):
        listed = _properties(binary, "qom-list-properties", name)
        if listed is not None:
            pieces[f"object/{name}"] = listed
    for name, bus, alias, rest in _LINE.findall(text):
        piece = pieces.setdefault(f"device/{name}", {"properties": []})
        piece["bus"] = bus or None
        piece["user"] = "no-user" not in rest
        if alias:
            aliases[alias] = name
        if piece["user"]:
            piece.update(_tried(binary, name, bus, {entry["name"] for entry in piece["properties"]}))
    pieces["aliases"] = aliases
    return pieces


def _properties(binary: str, command: str, name: str) -> list[dict[str, Any]] | None:
    """Return the properties of a type; None where QEMU tells none, or ends over a module it cannot load."""
    with Recorded(binary, "-machine", "none") as qemu:
        try:
            answer = qemu.reply(command, {"typename": name})
        except ValueError:
            return None
        return answer.get("return")


def _tried(binary: str, name: str, bus: str, properties: set[str]) -> dict[str, Any]:
    """Plug a device with nothing but its bus, and with its backends if that is refused."""
    bare = _plugged(binary, name, bus, ())
    found: dict[str, Any] = {}
    if "error" in bare:
        found["refused"] = bare["error"]
        backends = tuple(sorted(properties & (BACKENDS.keys() - _OPTIONAL)))
        if backends:
            bare = _plugged(binary, name, bus, backends)
    if "error" in bare:
        found["refused_with_backends"] = bare["error"]
        if "plug" in bare["error"] and not name.endswith("-cpu"):
            bare = _launched(binary, name, bus)
            if "error" in bare:
                found["launch_refused"] = bare["error"]
    if "specimen" in bare:
        found["specimen"] = bare["specimen"]
    return found


def _plugged(binary: str, name: str, bus: str, backends: tuple[str, ...]) -> dict[str, Any]:
    with Recorded(binary, *MACHINE) as qemu:
        arguments = {"driver": name, "id": "it"}
        if bus in BUSES:
            arguments["bus"] = BUSES[bus]
        for key in backends:
            command, made, value = BACKENDS[key]
            qemu.ask(command, made)
            arguments[key] = value
        try:
            answer = qemu.reply("device_add", arguments)
        except (OSError, ValueError):
            return {"error": "QEMU ended"}
        if "error" in answer:
            return {"error": answer["error"]["desc"]}
        try:
            return {"specimen": specimen(qemu, "/machine/peripheral/it")}
        except (OSError, ValueError):
            return {"error": "QEMU ended"}


def _launched(binary: str, name: str, bus: str) -> dict[str, Any]:
    words = f"{name},id=it" + (f",bus={BUSES[bus]}" if bus in BUSES and bus != "PCI" else "")
    ended = subprocess.Popen(
        [binary, *LEAN, *MACHINE, "-device", words, "-qmp", "stdio"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _, errors = ended.communicate(timeout=1.0)
    except subprocess.TimeoutExpired:
        ended.kill()
        _, errors = ended.communicate()
    refusals = [line for line in errors.splitlines() if f"-device {words}: " in line]
    if refusals and "warning" not in refusals[-1]:
        return {"error": refusals[-1].partition(f"-device {words}: ")[2]}
    try:
        with Recorded(binary, *MACHINE, "-device", words) as qemu:
            return {"specimen": specimen(qemu, "/machine/peripheral/it")}
    except (OSError, ValueError):
        return {"error": "QEMU ended"}


def specimen(qemu: Recorded, path: str, depth: int = 0) -> list[list[Any]]:
    """Return what is at a path: name, type, and for a property its value, for a child what is in that."""
    found = []
    for entry in qemu.ask("qom-list", {"path": path}):
        item = [entry["name"], entry["type"]]
        if entry["type"].startswith("child<"):
            memory = "memory-region" in entry["type"]
            item.append([] if memory or depth > 3 else specimen(qemu, f"{path}/{entry['name']}", depth + 1))
        else:
            answer = qemu.reply("qom-get", {"path": path, "property": entry["name"]})
            item.append(answer.get("return"))
            if "error" in answer:
                item.append(answer["error"]["desc"])
        found.append(item)
    return found
