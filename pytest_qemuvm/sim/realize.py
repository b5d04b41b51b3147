"""What a device needs to be one: its backends, a number on its bus, memory; and what it gives back."""

from __future__ import annotations

from pytest_qemuvm.sim.words import QmpRefusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_qemuvm.sim.devices import Device
    from pytest_qemuvm.sim.machine import Machine

_DRIVES = {
    "virtio-blk-pci": "virtio-blk-device",
    "virtio-blk-pci-transitional": "virtio-blk-device",
    "virtio-blk-pci-non-transitional": "virtio-blk-device",
}
"""Drivers whose drive belongs to a device behind them."""
_REMOVABLE = frozenset({"scsi-cd", "ide-cd"})


def check_names(machine: Machine, device: Device) -> None:
    """Look up what properties name, which is done as they are set. Raises QmpRefusal."""
    for key, made in (("netdev", machine.netdevs), ("chardev", machine.chardevs)):
        name = device.given.get(key)
        if name is not None and str(name) not in made:
            owner = _inner(device, "net") if key == "netdev" else device.driver
            raise QmpRefusal(f"Property '{owner}.{key}' can't find value '{name}'")
    for key in ("memdev", "rng", "iothread"):
        name = device.given.get(key)
        if name is not None and str(name) not in machine.objects:
            raise QmpRefusal(f"Device '{name}' not found", "DeviceNotFound")


def realize(machine: Machine, device: Device) -> None:
    """Bind a device to its backends. Raises QmpRefusal, with none bound."""
    if "specimen" not in device.recorded and "refused" in device.recorded:
        _refuse(device)
    try:
        _bind(machine, device)
    except QmpRefusal:
        unrealize(machine, device)
        raise


def _refuse(device: Device) -> None:
    """Raise what QEMU said of a device that could not be had, however it was tried."""
    recorded = device.recorded
    for key in ("refused", "refused_with_backends", "launch_refused"):
        said = recorded.get(key, "plug")
        # What was missing when it was tried may be there now.
        missing = [entry["name"] for entry in recorded["properties"] if entry["name"] in said.split()]
        if (
            "plug" not in said
            and "bus found" not in said
            and not any(name in device.given for name in missing)
        ):
            raise QmpRefusal(said)


def _bind(machine: Machine, device: Device) -> None:
    _bind_drive(machine, device)
    _bind_netdev(machine, device)
    _bind_chardev(machine, device)
    _bind_object(machine, device)
    if device.bus is None:
        return
    if device.bus.kind == "SCSI":
        _number_on_scsi(device)
    elif device.bus.kind == "virtio-serial-bus":
        _number_on_serial(device)
    elif device.bus.kind == "usb-bus":
        device.usb_port = device.bus.take_port(device.given.get("port"))


def _bind_drive(machine: Machine, device: Device) -> None:
    if not device.has("drive"):
        return
    from pytest_qemuvm.sim.drive import Drive

    removable = device.driver in _REMOVABLE
    name = device.given.get("drive")
    owner = _DRIVES.get(device.driver, device.driver)
    node = None
    if name is not None:
        node = machine.graph.find(str(name))
        if node is None:
            raise QmpRefusal(f"Property '{owner}.drive' can't find value '{name}'")
    elif not removable:
        raise QmpRefusal("drive property not set")
    path = device.id or device.path
    if device.driver in _DRIVES:
        path = f"{device.path}/virtio-backend"
    elif device.driver == "usb-storage":
        path = f"{device.path}/{device.id}.0/legacy[0]"
    _check_sizes(device)
    drive = Drive(
        machine.graph, device.id or "", path, removable=removable, share_rw=bool(device.given.get("share-rw"))
    )
    if node is not None:
        drive.insert(node)
    device.drive = machine.drives[device.path] = drive


def _check_sizes(device: Device) -> None:
    for name in ("logical_block_size", "physical_block_size"):
        size = device.given.get(name, 0)
        if size and (size & (size - 1) or not 512 <= size <= 2 << 20):
            raise QmpRefusal(f"{name} must be a power of 2, and between 512 and 2 MiB")


def _bind_netdev(machine: Machine, device: Device) -> None:
    name = device.given.get("netdev")
    if name is None:
        return
    netdev = machine.netdevs[str(name)]
    if netdev.get("peer") is not None:
        raise QmpRefusal(f"Property '{_inner(device, 'net')}.netdev' can't take value '{name}', it's in use")
    netdev["peer"] = device


def _bind_chardev(machine: Machine, device: Device) -> None:
    name = device.given.get("chardev")
    if name is None:
        return
    chardev = machine.chardevs[str(name)]
    if chardev.user is not None:
        raise QmpRefusal(f"Property '{device.driver}.chardev' can't take value '{name}', it's in use")
    from pytest_qemuvm.sim.chardev import FrontEnd

    chardev.attach(FrontEnd())


def _bind_object(machine: Machine, device: Device) -> None:
    for key in ("memdev", "rng", "iothread"):
        name = device.given.get(key)
        if name is not None:
            machine.objects[str(name)].users.append(device.path)
    if device.driver in {"pc-dimm", "virtio-mem-pci", "nvdimm"}:
        from pytest_qemuvm.sim import memory

        memory.plug(machine, device)
    elif device.driver.endswith("-cpu"):
        from pytest_qemuvm.sim import cpus

        cpus.plug(machine, device)


def _number_on_scsi(device: Device) -> None:
    assert device.bus is not None
    taken = {(child.found["scsi-id"], child.found["lun"]) for child in device.bus.children}
    target, lun = device.given.get("scsi-id", -1), device.given.get("lun", -1)
    if target < 0:
        target = 0
        while (target, max(lun, 0)) in taken:
            target += 1
    if lun < 0:
        lun = 0
        while (target, lun) in taken:
            lun += 1
    for child in device.bus.children:
        if (child.found["scsi-id"], child.found["lun"]) == (target, lun):
            raise QmpRefusal(f"lun already used by '{child.id}'")
    device.found.update({"channel": 0, "scsi-id": target, "lun": lun})


def _number_on_serial(device: Device) -> None:
    assert device.bus is not None
    name = device.given.get("name")
    taken = {child.found["nr"] for child in device.bus.children}
    if name and any(child.given.get("name") == name for child in device.bus.children):
        raise QmpRefusal(f"virtio-serial-bus: A port already exists by name {name}")
    wanted = device.given.get("nr", (1 << 32) - 1)
    if wanted == (1 << 32) - 1:
        wanted = 0 if device.driver == "virtconsole" else 1
        while wanted in taken:
            wanted += 1
    elif wanted in taken:
        raise QmpRefusal(f"virtio-serial-bus: A port already exists at id {wanted}")
    elif wanted == 0 and device.driver != "virtconsole":
        raise QmpRefusal(
            "Port number 0 on virtio-serial devices reserved for virtconsole devices for backward "
            "compatibility."
        )
    most = 30
    if wanted > most:
        raise QmpRefusal(f"virtio-serial-bus: Out-of-range port id specified, max. allowed: {most}")
    device.found["nr"] = wanted


def _inner(device: Device, kind: str) -> str:
    """Return the driver whose property it is: that of the device behind a virtio PCI device."""
    return f"virtio-{kind}-device" if device.driver.startswith("virtio-") else device.driver


def unrealize(machine: Machine, device: Device) -> list[str]:
    """Give all backends back; return the paths of the devices behind this one, which go before it."""
    machine.drives.pop(device.path, None)
    if device.bus is not None and device.usb_port:
        device.bus.free_ports.append(device.usb_port)
    if device.drive is not None:
        device.drive.remove()
        device.drive = None
    for netdev in machine.netdevs.values():
        if netdev.get("peer") is device:
            netdev["peer"] = None
    name = device.given.get("chardev")
    if name is not None and str(name) in machine.chardevs:
        machine.chardevs[str(name)].detach()
    for made in machine.objects.values():
        made.users = [user for user in made.users if user != device.path]
    machine.cpus.pop(device.path, None)
    machine.modules.pop(device.path, None)
    inner = []
    if device.backend:
        inner.append(device.backend)
    if device.driver == "usb-storage":
        inner.append(f"{device.path}/{device.id}.0/legacy[0]")
    return inner
