"""The machine as a whole: what it is, and whether it runs."""

from __future__ import annotations

from pytest_qemuvm.sim.monitor import Raw

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_qemuvm.sim.machine import Machine
    from pytest_qemuvm.sim.monitor import Monitor


def query_status(machine: Machine, _arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the state; versions up to 8.1 tell of single steps, too."""
    value = {"status": machine.runstate.status, "running": machine.runstate.running}
    if machine.version < (8, 2):
        value["singlestep"] = False
    return value


def query_version(machine: Machine, _arguments: dict[str, Any]) -> Any:
    """Return QEMU's version."""
    return machine.archive.get("version")


def query_name(machine: Machine, _arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the name, where there is one."""
    return {} if machine.name is None else {"name": machine.name}


def query_uuid(machine: Machine, _arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the UUID."""
    return {"UUID": machine.uuid}


def query_kvm(machine: Machine, _arguments: dict[str, Any]) -> dict[str, Any]:
    """Return whether KVM is there and in use."""
    return {"enabled": machine.accelerator == "kvm", "present": True}


def query_target(_machine: Machine, _arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the architecture."""
    return {"arch": "x86_64"}


def query_commands(machine: Machine, _arguments: dict[str, Any]) -> list[dict[str, str]]:
    """Return the names of all commands."""
    return [{"name": name} for name in machine.archive.get("commands")]


def query_qmp_schema(machine: Machine, _arguments: dict[str, Any], _monitor: Monitor) -> Raw:
    """Return the schema, as it was recorded."""
    return Raw(machine.archive.raw("schema"))


def query_command_line_options(machine: Machine, arguments: dict[str, Any]) -> Any:
    """Return the options that QEMU says it has, or one of them."""
    options = machine.archive.get("command-line-options")
    wanted = arguments.get("option")
    if wanted is None:
        return options
    from pytest_qemuvm.sim.words import QmpRefusal

    found = [option for option in options if option["option"] == wanted]
    if not found:
        raise QmpRefusal(f"invalid option name: {wanted}")
    return found


def stop(machine: Machine, _arguments: dict[str, Any]) -> dict[str, Any]:
    """Let the processors stand still."""
    machine.runstate.stop()
    return {}


def cont(machine: Machine, _arguments: dict[str, Any]) -> dict[str, Any]:
    """Let the processors run."""
    machine.runstate.resume()
    return {}


def quit(machine: Machine, _arguments: dict[str, Any]) -> dict[str, Any]:  # noqa: A001  # QEMU's name
    """End the process."""
    machine.runstate.quit("host-qmp-quit")
    return {}


def system_reset(machine: Machine, _arguments: dict[str, Any]) -> dict[str, Any]:
    """Reset the machine."""
    machine.runstate.reset()
    return {}


def system_powerdown(machine: Machine, _arguments: dict[str, Any]) -> dict[str, Any]:
    """Press the power button."""
    machine.runstate.power_down()
    return {}
