"""The command line as a fold over what each device needs."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from pytest_qemuvm.arch import machine_type
from pytest_qemuvm.devices.steps import AddObject, AddSocketChardev, escaped
from pytest_qemuvm.errors import SpecError
from pytest_qemuvm.plan.layout import lay_out
from pytest_qemuvm.plan.model import MONITOR, RAM, MachinePlan
from pytest_qemuvm.spec.sizes import GIB, MIB

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_qemuvm.arch import Machine
    from pytest_qemuvm.plan.model import PlannedNic, Plugged, Surroundings
    from pytest_qemuvm.spec.vm import Boot, VMSpec

MEMORY_SLOTS = 4
MEMORY_ROOM = 4 * GIB
"""How much memory can be plugged; address space only, it costs nothing until it is plugged."""
LEAST_MAX_CPUS = 4
"""Room for CPU hot-plug; and below 2, virtio-net links between VMs die under TCG (measured, QEMU 7.2)."""
TB_SIZE = 128
"""MiB for TCG's translated code. QEMU would reserve 1 GiB; the built-in guest fills less than 40 MiB."""

SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


def plan_machine(spec: VMSpec, world: Surroundings, plugged: Plugged | None = None) -> MachinePlan:
    """Decide everything about a machine before anything is touched.

    ``plugged`` is what it has in place of the devices of its spec. Raises SpecError where the spec asks for
    what the machine type does not have.
    """
    machine = machine_type(world.arch, spec.machine)
    boot = _what_boots(spec, machine, world)
    if world.boot is not None and world.accelerator == "tcg" and not machine.keeps_time_emulated:
        raise SpecError(
            f"a guest on {machine.name} may hang under TCG: it finds no clock there that it can trust",
            hint="use machine='q35', or an accelerator that is proven",
        )
    # Nobody else lets devices go where there is no guest; one of the user's has to do it by itself.
    plays_guest = boot == "none"
    layout = lay_out(spec, machine, world, boot)
    if plugged is not None:
        layout = layout.with_plugged(plugged)
    fragments = (*layout.built_in, *(device.fragment for device in layout.requested))
    console_log = f"{world.run_dir}/console.log"
    firmware = (f"{world.run_dir}/firmware.bin", world.arch.halt_firmware) if boot == "none" else None
    return MachinePlan(
        name=world.name,
        argv=tuple(
            chain(
                [world.binary],
                _process(world),
                _processor(spec, machine, world),
                _boot(spec, machine, world, boot, firmware[0] if firmware else None),
                _told(layout.nics, world) if world.boot else (),
                _memory(spec, world),
                _channels(console_log, appended=world.memory == "clone" or world.waits),
                _guests_hands() if plays_guest else (),
                chain.from_iterable(fragment.argv() for fragment in fragments),
                spec.args,
            )
        ),
        monitor=world.monitor,
        sockets=("qmp", "console", *(("qtest",) if plays_guest else ()), *layout.sockets),
        agent_ports=layout.agent_sockets,
        images=layout.images,
        caches=layout.caches,
        firmware=firmware,
        console_log=console_log,
        devices=layout.requested,
        nics=layout.nics,
        free_ports=layout.free_ports,
        held_ports=layout.held_ports,
        machine=machine,
        ids=frozenset(fragment.id for fragment in fragments),
        display=any(fragment.kind == "display" for fragment in layout.built_in),
        boot=boot,
        guest=world.boot is not None,
        memory=world.memory,
        waits=world.waits,
    )


def _what_boots(spec: VMSpec, machine: Machine, world: Surroundings) -> Boot:
    """Return what the processor runs first. Raises SpecError where it cannot, or has no use for a key."""
    if spec.kernel and world.boot is None:
        raise SpecError(f"template {spec.template!r} boots no kernel, so kernel= means nothing")
    if spec.boot not in ("disk", "network"):
        if any(nic.boot for nic in spec.nics):
            raise SpecError(
                "boot=True of a NIC means nothing where no firmware boots anything",
                hint="boot='network', or boot='disk' where the disk comes first",
            )
        return "kernel" if world.boot else "none"
    if not machine.boots_disks:
        raise SpecError(
            f"the firmware of {machine.name} boots from no {spec.boot}",
            hint="use machine='q35', or boot='none'",
        )
    if spec.boot == "network":
        if not any(nic.boot for nic in spec.nics):
            raise SpecError("boot='network': no NIC to boot from", hint="nics=[NicSpec(..., boot=True)]")
        for key in ("kernel", "append"):
            if getattr(spec, key):
                raise SpecError(f"{key}= means nothing with boot='network': the server there says what boots")
    return spec.boot


def _process(world: Surroundings) -> Iterator[str]:
    """Yield what QEMU is told of itself."""
    yield from ("-name", f"guest={escaped(world.name)}@{world.tag}")
    yield from ("-no-user-config", "-nodefaults", "-display", "none")
    if world.sandbox:
        yield from ("-sandbox", SANDBOX)
    # A guest that panicked or switched itself off stays to be looked at, and its event cannot be lost in
    # QEMU's exit; whoever owns the VM ends it.
    yield from ("-action", "panic=pause,shutdown=pause")


def _processor(spec: VMSpec, machine: Machine, world: Surroundings) -> Iterator[str]:
    backend = "" if world.memory == "own" else f",memory-backend={RAM}"
    # What the firmware and the boot ROM say goes to the serial port: nobody sees why else nothing boots.
    serial = ",graphics=off" if any(nic.boot for nic in spec.nics) else ""
    yield from ("-machine", machine.options + serial + backend)
    accelerator = f"tcg,tb-size={TB_SIZE}" if world.accelerator == "tcg" else world.accelerator
    yield from ("-accel", accelerator, "-cpu", world.cpu_model)
    yield from ("-smp", f"cpus={spec.cpus},maxcpus={max(spec.cpus, LEAST_MAX_CPUS)}")
    memory = f"size={spec.bytes // MIB}M"
    if machine.memory_slots:
        memory += f",slots={MEMORY_SLOTS},maxmem={(spec.bytes + MEMORY_ROOM) // MIB}M"
    yield from ("-m", memory)


def _boot(
    spec: VMSpec, machine: Machine, world: Surroundings, boot: Boot, firmware: str | None
) -> Iterator[str]:
    """Yield what the processor runs first: the guest's kernel, a firmware that halts, or QEMU's own."""
    if firmware is not None:
        yield from ("-bios", firmware)
        return
    if boot != "kernel" or world.boot is None:
        # From what was named or not at all: a firmware that went on to the network would hide a bad image.
        # Where a guest is waited for, a firmware that finds nothing resets, which the host sees.
        yield from ("-boot", "strict=on" if world.boot is None else "strict=on,reboot-timeout=1")
        return
    yield from ("-kernel", world.boot.kernel)
    if world.boot.initrd:
        yield from ("-initrd", world.boot.initrd)
    words = " ".join(filter(None, (world.boot.append, machine.append, spec.append)))
    yield from ("-append", words)


def _told(nics: Sequence[PlannedNic], world: Surroundings) -> Iterator[str]:
    """Yield what the built-in guest is told: its name, and the networks that it is in."""
    yield from ("-fw_cfg", f"name=opt/qemuvm/hostname,string={escaped(world.name)}")
    told = [nic.link.told(nic.mac) for nic in nics if nic.link is not None and nic.link.backend != "user"]
    if told:
        yield from ("-fw_cfg", f"name=opt/qemuvm/net,string={escaped(' '.join(told))}")


def _memory(spec: VMSpec, world: Surroundings) -> Iterator[str]:
    """Yield where the memory is, unless it is QEMU's own; a clone waits for its state, and to be let go."""
    if world.memory == "copy":
        yield from AddObject("memory-backend-ram", RAM, {"size": spec.bytes}).argv()
    elif world.memory != "own":
        properties = {
            "size": spec.bytes,
            "mem-path": f"/proc/self/fd/{{fd:{RAM}}}",
            "share": world.memory == "saved",
        }
        yield from AddObject("memory-backend-file", RAM, properties).argv()
    if world.memory == "clone" or world.waits:
        yield from ("-incoming", "defer", "-S")


def _channels(console_log: str, *, appended: bool) -> Iterator[str]:
    """Yield both monitors and the serial console, all on sockets that the harness already holds.

    A monitor has one client. The harness stays connected to the first, so others have one of their own.
    """
    yield from AddSocketChardev("qmp", "qmp").argv()
    yield from ("-mon", "chardev=qmp,mode=control")
    yield from AddSocketChardev("qmp2", MONITOR, listening=True).argv()
    yield from ("-mon", "chardev=qmp2,mode=control")
    yield from AddSocketChardev("console", "console", logfile=console_log, append=appended).argv()
    yield from ("-serial", "chardev:console")


def _guests_hands() -> Iterator[str]:
    """Yield the port through which the harness plays the guest where there is none: it lets devices go."""
    yield from AddSocketChardev("qtest", "qtest").argv()
    yield from AddObject("qtest", "qtest0", {"chardev": "qtest", "log": "none"}).argv()
