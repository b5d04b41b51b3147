"""Record a version of QEMU for the simulator: a tool of the project's, that the simulator itself never uses.

    python -m pytest_qemuvm.sim.record QEMU [DIRECTORY]

QEMU is a binary, or a wrapper of one; its version decides the name of what is written:
``data/<version>/recorded.bin``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from pytest_qemuvm.sim import archive, record_pci
from pytest_qemuvm.sim import record_devices as devices
from pytest_qemuvm.sim.record_asked import Recorded


def packed(value: Any) -> bytes:
    """Return a value as it is recorded."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True).encode()


def record(binary: str) -> dict[str, bytes]:
    """Return everything that is recorded of a QEMU."""
    pieces: dict[str, Any] = {}
    with Recorded(binary, "-machine", "none") as qemu:
        pieces["greeting"] = qemu.greeting
        pieces["schema"] = schema = qemu.ask("query-qmp-schema")
        pieces["version"] = qemu.ask("query-version")
        pieces["commands"] = sorted(entry["name"] for entry in qemu.ask("query-commands"))
        pieces["command-line-options"] = qemu.ask("query-command-line-options")
        pieces["machines"] = qemu.ask("query-machines")
        pieces["types"] = {
            entry["name"]: [entry.get("parent"), bool(entry.get("abstract"))]
            for entry in qemu.ask("qom-list-types", {"abstract": True})
        }
    for name, closure in argument_types(schema).items():
        pieces[f"arguments/{name}"] = closure
    pieces |= machines(binary, pieces["machines"])
    for name, text in printed(binary).items():
        pieces[f"printed/{name}"] = text
    pieces |= devices.record(binary)
    record_pci.record(binary, pieces)
    return {name: packed(value) for name, value in pieces.items()}


def argument_types(schema: list[dict[str, Any]]) -> dict[str, Any]:
    """Return for each command its own part of the schema, so that nobody has to read the whole."""
    types = {entry["name"]: entry for entry in schema}
    found = {}
    for entry in schema:
        if entry["meta-type"] != "command":
            continue
        closure: dict[str, Any] = {}
        _gather(entry["arg-type"], types, closure)
        found[entry["name"]] = {
            "root": entry["arg-type"],
            "oob": entry.get("allow-oob", False),
            "types": closure,
        }
    return found


def _gather(name: str, types: dict[str, Any], into: dict[str, Any]) -> None:
    if name in into:
        return
    entry = {key: value for key, value in types[name].items() if key not in {"name", "features"}}
    if entry["meta-type"] == "enum":
        entry.pop("members", None)
    for kind in ("members", "variants"):
        if kind in entry:
            plain = entry[kind]
            entry[kind] = [{key: each[key] for key in each if key != "features"} for each in plain]
    into[name] = entry
    below = [member["type"] for member in entry.get("members", ())]
    below += [variant["type"] for variant in entry.get("variants", ())]
    if "element-type" in entry:
        below.append(entry["element-type"])
    for each in below:
        _gather(each, types, into)


def machines(binary: str, known: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what is at ``/machine`` of the machine types that the simulator models: names and types."""
    found = {}
    for entry in known:
        if entry.get("alias") in {"pc", "q35"} or entry["name"] == "microvm":
            with Recorded(binary, "-machine", entry["name"]) as qemu:
                listed = qemu.ask("qom-list", {"path": "/machine"})
            found[f"machine/{entry['name']}-machine"] = [[item["name"], item["type"]] for item in listed]
    return found


def printed(binary: str) -> dict[str, str]:
    """Return what QEMU prints when it is only asked something."""
    questions = {
        "version": ("--version",),
        "help": ("-help",),
        "devices": ("-machine", "none", "-device", "help"),
        "machines": ("-machine", "help"),
        "cpus": ("-machine", "none", "-cpu", "help"),
        "accelerators": ("-accel", "help"),
        "objects": ("-machine", "none", "-object", "help"),
        "netdevs": ("-machine", "none", "-netdev", "help"),
        "chardevs": ("-machine", "none", "-chardev", "help"),
    }
    return {
        name: subprocess.run(
            [binary, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        ).stdout
        for name, words in questions.items()
    }


def main(binary: str, directory: str = archive.DIRECTORY) -> None:
    """Record a QEMU and write its archive."""
    pieces = record(binary)
    version = json.loads(pieces["version"])["qemu"]
    path = Path(directory) / f"{version['major']}.{version['minor']}" / archive.NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    archive.write(str(path), pieces)
    sys.stdout.write(f"{path}: {len(pieces)} pieces, {path.stat().st_size} bytes\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
