"""Devices, objects, backends and the tree of all of them."""

from __future__ import annotations

from pytest_qemuvm.sim import cpus, hmp, memory, netdevs, objects, qom
from pytest_qemuvm.sim.words import NotModelled, QmpRefusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_qemuvm.sim.machine import Machine
    from pytest_qemuvm.sim.monitor import Monitor


def device_add(machine: Machine, arguments: dict[str, Any]) -> dict[str, Any]:
    """Plug a device."""
    if machine.version < (9, 2) and "driver" in arguments:
        name = arguments.get("id")
        if isinstance(name, str) and not objects.well_formed(name):
            raise QmpRefusal("Parameter 'id' expects an identifier")
    machine.devices.add(arguments)
    return {}


def device_del(machine: Machine, arguments: dict[str, Any]) -> dict[str, Any]:
    """Unplug a device, or ask the guest to let it go."""
    machine.hotplug.request(arguments["id"])
    return {}


def device_list_properties(machine: Machine, arguments: dict[str, Any]) -> Any:
    """Return the properties of a driver, as they were recorded."""
    name = arguments["typename"]
    key = f"device/{name}"
    if key in machine.archive and machine.archive.get(key)["properties"]:
        return machine.archive.get(key)["properties"]
    kind = machine.archive.get("types").get(name)
    if kind is None:
        raise QmpRefusal(f"Device '{name}' not found", "DeviceNotFound")
    if kind[1] or not machine.devices.is_a(name, "device"):
        raise QmpRefusal("Parameter 'typename' expects a non-abstract device type")
    raise NotModelled(f"the properties of {name}")


def qom_list_types(machine: Machine, arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the names of types."""
    wanted, abstract = arguments.get("implements"), arguments.get("abstract", False)
    found = []
    for name, (parent, is_abstract) in machine.archive.get("types").items():
        if is_abstract and not abstract:
            continue
        if wanted is not None:
            if wanted == "user-creatable":
                raise NotModelled("interfaces among types")
            if not machine.devices.is_a(name, wanted):
                continue
        entry: dict[str, Any] = {"name": name}
        if parent is not None:
            entry["parent"] = parent
        if is_abstract:
            entry["abstract"] = True
        found.append(entry)
    return found


def qom_list(machine: Machine, arguments: dict[str, Any]) -> list[dict[str, str]]:
    """Return what is at a path."""
    return [{"name": item[0], "type": item[1]} for item in qom.items_at(machine, arguments["path"])]


def qom_get(machine: Machine, arguments: dict[str, Any]) -> Any:
    """Return a property."""
    return qom.get(machine, arguments["path"], arguments["property"])


def qom_set(machine: Machine, arguments: dict[str, Any]) -> dict[str, Any]:
    """Set a property."""
    qom.set_property(machine, arguments["path"], arguments["property"], arguments["value"])
    return {}


def object_add(machine: Machine, arguments: dict[str, Any]) -> dict[str, Any]:
    """Make an object."""
    objects.add(machine, arguments)
    return {}


def object_del(machine: Machine, arguments: dict[str, Any]) -> dict[str, Any]:
    """Remove an object."""
    objects.remove(machine, arguments["id"])
    return {}


def netdev_add(machine: Machine, arguments: dict[str, Any], monitor: Monitor) -> dict[str, Any]:
    """Make a network backend."""
    netdevs.add(machine, arguments, monitor.descriptors)
    return {}


def set_link(machine: Machine, arguments: dict[str, Any]) -> dict[str, Any]:
    """Plug or pull the cable of a network interface."""
    netdevs.set_link(machine, arguments["name"], up=arguments["up"])
    return {}


def netdev_del(machine: Machine, arguments: dict[str, Any]) -> dict[str, Any]:
    """Remove a network backend."""
    netdevs.remove(machine, arguments["id"])
    return {}


def query_hotpluggable_cpus(machine: Machine, _arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all sockets."""
    return cpus.hotpluggable(machine)


def query_cpus_fast(machine: Machine, _arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all processors."""
    return cpus.present(machine)


def query_memory_devices(machine: Machine, _arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the memory that was plugged."""
    return memory.described(machine)


def query_memory_size_summary(machine: Machine, _arguments: dict[str, Any]) -> dict[str, int]:
    """Return how much memory there was at first, and how much was plugged."""
    plugged = sum(module.size for module in machine.modules.values() if module.slot >= 0)
    return {"base-memory": machine.memory, "plugged-memory": plugged}


def human_monitor_command(machine: Machine, arguments: dict[str, Any]) -> str:
    """Answer what the human monitor is asked, where that is modelled exactly."""
    return hmp.run(machine, arguments["command-line"])


def query_balloon(machine: Machine, _arguments: dict[str, Any]) -> dict[str, int]:
    """Return how much memory the balloon leaves; a guest alone could have changed it."""
    _balloon(machine)
    return {"actual": machine.memory}


def balloon(machine: Machine, arguments: dict[str, Any]) -> dict[str, Any]:
    """Ask the guest for memory."""
    _balloon(machine)
    if arguments["value"] <= 0:
        name = "target" if machine.version < (10, 0) else "value"
        raise QmpRefusal(f"Parameter '{name}' expects a size")
    return {}


def _balloon(machine: Machine) -> None:
    if not any(device.driver.startswith("virtio-balloon") for device in machine.devices.all()):
        raise QmpRefusal("No balloon device has been activated", "DeviceNotActive")


def query_iothreads(machine: Machine, _arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the I/O threads, of which there may be none: the simulator has no threads."""
    if any(made.kind == "iothread" for made in machine.objects.values()):
        raise NotModelled("threads")
    return []
