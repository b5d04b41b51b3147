"""A second machine from the present state of one that runs: planned from what is plugged into it now."""

from __future__ import annotations

import threading
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_qemuvm.devices.place import Image
from pytest_qemuvm.devices.steps import AddDevice
from pytest_qemuvm.guest.agent import Address
from pytest_qemuvm.host.memory import MemoryFile
from pytest_qemuvm.machine.inventory import take_inventory
from pytest_qemuvm.machine.saving import save_state
from pytest_qemuvm.machine.starting import Moment
from pytest_qemuvm.plan import ImagePlan, MachinePlan, PlannedDevice, PlannedNic, Plugged, plan_machine
from pytest_qemuvm.plan.identity import mac_address
from pytest_qemuvm.spec.devices import CdromSpec, DiskSpec, NicSpec

if TYPE_CHECKING:
    from pytest_qemuvm.host.deadline import Deadline
    from pytest_qemuvm.machine.inventory import Inventory, Placed
    from pytest_qemuvm.machine.live import Live
    from pytest_qemuvm.machine.services import Services
    from pytest_qemuvm.machine.vm import VM
    from pytest_qemuvm.plan.model import Surroundings
    from pytest_qemuvm.spec.vm import VMSpec


_LOOK_SECONDS = 0.001


def duplicate(vm: VM, live: Live, name: str | None, services: Services, deadline: Deadline) -> VM:
    """Return a VM that goes on from the present state of another, which runs on.

    Raises CannotSave, and whatever keeps a VM from coming up; then the other runs on all the same.
    """
    owner = services.acting()
    twin = services.registry.make_vm(name, _spec_of(vm.spec), vm.blueprint.template, owner)
    with ExitStack() as undo:
        undo.callback(twin.delete)
        state = MemoryFile("state")
        undo.callback(state.close)
        with live.hotplug.turn(deadline):
            live.hotplug.await_settled(deadline)
            channel = live.channel
            with channel.held(deadline) if channel is not None else nullcontext():
                inventory = take_inventory(live, services.wardens.disks())
                plan, addresses = _planned(live, twin, inventory, services)
                boot_id = (channel.boot_id if channel is not None else None) or ""
                console = live.console.text
                try:
                    save_state(live, state, whole=True)
                    # QEMU has closed the images: they hold all that was written.
                    twin.prepare_as(plan)
                finally:
                    _run_on(live, deadline)
        twin.go_on(Moment(plan, state, boot_id, addresses, console))
        undo.pop_all()
        state.close()
    return twin


def _run_on(live: Live, deadline: Deadline) -> None:
    """Let the first machine run on; it takes its images back."""
    # QEMU announces the end of a migration a moment before it would run again, and that moment's end nowhere.
    while live.qmp.execute("query-status")["status"] == "finish-migrate" and not deadline.expired:
        threading.Event().wait(_LOOK_SECONDS)
    live.qmp.execute("cont")


def _spec_of(spec: VMSpec) -> VMSpec:
    """Return the spec of the other machine: it has no part in disks of ``disk_factory``, only copies."""
    disks = tuple(_without_handle(disk) for disk in spec.disks)
    nics = tuple(_of_its_own(nic) for nic in spec.nics)
    return spec.with_keywords({"disks": disks, "nics": nics}, "clone()")


def _of_its_own(spec: NicSpec) -> NicSpec:
    """Return the spec of a NIC that shares a network with the first machine's."""
    return spec if spec.network is None else replace(spec, mac=None, ip=None)


def _without_handle(spec: DiskSpec) -> DiskSpec:
    return replace(spec, path=None, size=spec.handle.size, handle=None) if spec.handle is not None else spec


def _planned(
    live: Live, twin: VM, inventory: Inventory, services: Services
) -> tuple[MachinePlan, dict[str, Address]]:
    """Return what the second machine is to be, and which of the first one's addresses become which."""
    blueprint = twin.blueprint
    made = [_device(placed, twin, services, has_agent=live.plan.guest) for placed in inventory.placed]
    shells = {shell.id for shell in inventory.ledger.shells}
    devices = tuple(planned for planned, _ in made if planned.id not in shells)
    nics = tuple(
        PlannedNic(device.id, device.supplies.mac or "", device.spec.forward, device.supplies.link)
        for device in devices
        if isinstance(device.spec, NicSpec)
    )
    plugged = Plugged(
        devices,
        tuple(planned.fragment for planned, _ in made if planned.id in shells),
        tuple(image for _, image in made if image is not None),
        nics,
        inventory.ledger.slots,
    )
    addresses = {
        placed.device.supplies.mac: Address(planned.supplies.mac, planned.supplies.link)
        for placed, (planned, _) in zip(inventory.placed, made, strict=True)
        if placed.device.supplies.mac is not None and planned.supplies.mac is not None
    }
    # Memory has a name, by which its content is found again: QEMU's own choice, or a live template's.
    named = live.plan.memory != "own"
    world: Surroundings = replace(blueprint.world, memory="copy" if named else "own", waits=True)
    booting = replace(world, memory="own", waits=False)
    plan = plan_machine(blueprint.spec, world, plugged)
    return replace(plan, booting=plan_machine(blueprint.spec, booting, plugged)), addresses


def _device(
    placed: Placed, twin: VM, services: Services, *, has_agent: bool
) -> tuple[PlannedDevice, ImagePlan | None]:
    """Return a device of the second machine, and the image that is copied for it, if one is."""
    device = placed.device
    spec, supplies, image = device.spec, device.supplies, None
    if isinstance(spec, DiskSpec) and supplies.image is not None:
        spec = _without_handle(spec)
        if placed.disk is not None or not spec.read_only:
            source = supplies.image
            path = str(twin.run_dir / f"{device.id}.{source.format}")
            image = ImagePlan(path, source.format, None, copy_of=source.path)
            supplies = replace(supplies, image=Image(path, source.format))
    elif isinstance(spec, NicSpec):
        spec = _of_its_own(spec)
        # A guest without an agent keeps the address that it has, and QEMU loads no e1000e that has another.
        keeps = not has_agent or spec.model == "e1000e"
        mac = supplies.mac or "" if keeps else mac_address(services.tag, f"{twin.name}/{device.id}", 0)
        supplies = replace(supplies, mac=mac, link=services.networks.connect(twin.name, device.id, spec, mac))
    elif isinstance(spec, CdromSpec):
        spec = replace(spec, path=placed.medium)
    elif supplies.path is not None:
        supplies = replace(supplies, path=str(services.socket_path()))
    # What is left as it is may be of another kind than a plug's: the ports that were there from the start.
    changed = (spec, supplies) != (device.spec, device.supplies)
    fragment = device.kind.fragment(spec, supplies) if changed else device.fragment
    *before, last = fragment.steps
    assert isinstance(last, AddDevice)
    last = replace(last, properties={**last.properties, **placed.exact})
    return PlannedDevice(device.kind, spec, supplies, replace(fragment, steps=(*before, last))), image
