"""The tree of objects, as far as it is modelled: what the user made, and devices with their properties."""

from __future__ import annotations

from pytest_qemuvm.sim.words import NotModelled, QmpRefusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_qemuvm.sim.buses import Bus
    from pytest_qemuvm.sim.devices import Device
    from pytest_qemuvm.sim.machine import Machine

Item = list["Any"]
"""Name, type, and what was recorded: the value of a property, or the items of a child."""
_TYPE = ["type", "string", "container"]
_LINKS = ("memdev", "iothread", "rng")
_BACKENDS = ("drive", "netdev", "chardev")


def items_at(machine: Machine, path: str) -> list[Item]:
    """Return what is at a path. Raises QmpRefusal where there is nothing."""
    words = [word for word in path.split("/") if word]
    if not path.startswith("/"):
        words = _resolved(machine, path, words)
    children = _containers(machine).get(tuple(words))
    if children is not None:
        return [_TYPE, *([name, f"child<{kind}>", None] for name, kind in children)]
    match words:
        case ["machine", "peripheral" | "peripheral-anon", _, *below]:
            device = _device(machine, words)
            if device is not None:
                return _below(machine, device, below, path)
        case ["objects", name] if name in machine.objects:
            made = machine.objects[name]
            return [
                ["type", "string", made.kind],
                *([key, "", value] for key, value in made.properties.items()),
            ]
        case ["machine"]:
            return [[name, kind, machine.qom_type] for name, kind in _at_machine(machine)]
        case ["machine", "unattached" | "q35" | "i440fx", *_]:
            raise NotModelled(f"the objects at {path}")
    raise QmpRefusal(f"Device '{path}' not found", "DeviceNotFound")


def _containers(machine: Machine) -> dict[tuple[str, ...], list[tuple[str, str]]]:
    """Return the children of the containers, with their types, by the containers' paths."""
    root = [("objects", "container"), ("machine", machine.qom_type), ("chardevs", "container")]
    if machine.version >= (10, 0):
        root.append(("backend", "container"))
    nameless = machine.devices.nameless
    return {
        (): root,
        ("objects",): [(name, made.kind) for name, made in machine.objects.items()],
        ("chardevs",): [(name, chardev.kind) for name, chardev in machine.chardevs.items()],
        ("machine", "peripheral"): [(n, device.driver) for n, device in machine.devices.named.items()],
        ("machine", "peripheral-anon"): [(f"device[{n}]", dev.driver) for n, dev in enumerate(nameless)],
    }


def _at_machine(machine: Machine) -> list[list[str]]:
    found: list[list[str]] = machine.archive.get(f"machine/{machine.qom_type}")
    room = [["device-memory[0]", "child<memory-region>"]] if machine.memory_most > machine.memory else []
    # Older versions have the link in any case.
    gone = machine.version >= (8, 0) and machine.settings.get("smm") == "off"
    without = {"smram"} if gone else set()
    return [item for item in [*found, *room] if item[0] not in without]


def _resolved(machine: Machine, path: str, words: list[str]) -> list[str]:
    """Return the absolute path of a partial one."""
    if not words:
        raise QmpRefusal("Path '' is ambiguous")
    if words[0] in machine.devices.named:
        return ["machine", "peripheral", *words]
    if words[0] in machine.objects:
        return ["objects", *words]
    if words[0] in {"machine", "objects", "chardevs"}:
        return words
    raise QmpRefusal(f"Device '{path}' not found", "DeviceNotFound")


def _device(machine: Machine, words: list[str]) -> Device | None:
    path = "/" + "/".join(words[:3])
    return next((device for device in machine.devices.all() if device.path == path), None)


def _below(machine: Machine, device: Device, below: list[str], path: str) -> list[Item]:
    items = tree(machine, device)
    for number, word in enumerate(below):
        found = next((item for item in items if item[0] == word and item[1].startswith("child<")), None)
        if found is None:
            raise QmpRefusal(f"Device '{path}' not found", "DeviceNotFound")
        items = found[2] or []
        bus = next((bus for bus in device.buses if bus.name == word), None)
        if bus is not None and number == len(below) - 1:
            items = _of_bus(bus, items)
    return items


def _of_bus(bus: Bus, items: list[Item]) -> list[Item]:
    """Return what is on a bus: the recorded items, with links to the devices that are there now."""
    plain = [item for item in items if not item[0].startswith("child[")]
    if not plain:
        plain = [["type", "string", bus.kind], ["realized", "bool", True]]
    links = [
        [f"child[{number}]", f"link<{device.driver}>", device.path]
        for number, device in enumerate(bus.children)
    ]
    rest = plain[2:]
    if bus.selector is not None and not any(item[0] == "acpi-pcihp-bsel" for item in rest):
        rest = [["acpi-pcihp-bsel", "uint32", bus.selector], *rest]
    return [*plain[:2], *links, *rest]


def tree(machine: Machine, device: Device) -> list[Item]:
    """Return the items of a device: as recorded, with this one's names, places and values."""
    recorded = device.recorded.get("specimen")
    if recorded is None:
        recorded = [["type", "string", device.driver], *_from_properties(device)]
    return [_item(machine, device, item, depth=0) for item in recorded]


def _from_properties(device: Device) -> list[Item]:
    return [
        [entry["name"], entry["type"], entry.get("default-value")] for entry in device.recorded["properties"]
    ]


def _item(machine: Machine, device: Device, item: Item, depth: int) -> Item:
    name, kind, value = item[0], item[1], item[2]
    name = _renamed(device, name)
    if kind.startswith("child<"):
        inner = [_item(machine, device, below, depth + 1) for below in value or ()]
        return [name, kind, inner]
    return [name, kind, _value(machine, device, name, kind, value, depth), *item[3:]]


def _renamed(device: Device, name: str) -> str:
    return f"{device.id}{name[2:]}" if name.startswith("it.") or name == "it" else name


def _value(machine: Machine, device: Device, name: str, kind: str, value: Any, depth: int) -> Any:
    """Return the value of a property: what this device was given or has got, else what was recorded."""
    own = _places(machine, device) if depth == 0 else {}
    if name in {"addr", "legacy-addr"} and device.devfn is not None:
        value = device.devfn if name == "addr" else f"{device.devfn >> 3:02x}.{device.devfn & 7}"
    elif name in own:
        value = own[name]
    elif name in device.given:
        value = device.given[name]
        if name in _LINKS and kind.startswith("link<"):
            value = f"/objects/{value}"
    elif isinstance(value, str) and "/machine/peripheral/it" in value:
        value = value.replace("/machine/peripheral/it", device.path).replace("/it.", f"/{device.id}.")
    elif name in _BACKENDS:
        value = ""
    return value


def _places(machine: Machine, device: Device) -> dict[str, Any]:
    """Return the properties that the machine chose."""
    found = {
        "parent_bus": device.bus.path if device.bus is not None else "",
        "hotplugged": device.hotplugged,
        **device.found,
    }
    if device.path in machine.modules:
        found["requested-size"] = machine.modules[device.path].requested
    return found


def get(machine: Machine, path: str, name: str) -> Any:
    """Return a property. Raises QmpRefusal."""
    items = items_at(machine, path)
    for item in items:
        if item[0] == name:
            if name != "type" and path.strip("/") == "machine":
                raise NotModelled(f"the property {name} of the machine")
            if len(item) > 3:
                raise QmpRefusal(item[3])
            if item[1].startswith("child<"):
                return f"{path}/{name}"
            return item[2]
    kind = next((item[2] for item in items if item[0] == "type"), "container")
    raise QmpRefusal(f"Property '{kind}.{name}' not found")


def set_property(machine: Machine, path: str, name: str, value: Any) -> None:
    """Set a property. Raises QmpRefusal."""
    words = [word for word in path.split("/") if word]
    get(machine, path, name)
    if not path.startswith("/"):
        words = _resolved(machine, path, words)
    device = _device(machine, words)
    if device is None or len(words) > 3:
        raise NotModelled(f"setting {name} of {path}")
    if name == "requested-size":
        from pytest_qemuvm.sim import memory

        memory.request(machine, device, value)
        return
    if any(entry["name"] == name for entry in device.recorded["properties"]):
        what = f"on device '{device.id}' (type '{device.driver}')"
        raise QmpRefusal(f"Attempt to set property '{name}' {what} after it was realized")
    raise NotModelled(f"setting {name} of {path}")
