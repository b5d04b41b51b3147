"""What a failing test's report says of its machines, and what is kept of them."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from typing import TYPE_CHECKING, Any

from pytest_qemuvm.errors import QemuVMError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pytest

    from pytest_qemuvm.machine.vm import VM
    from pytest_qemuvm.plugin.state import SessionState

TRANSCRIPT_LINES = 30
TIMELINE = "timeline.txt"
_WIDER = {"module_vm_factory": "module", "session_vm_factory": "session"}


def complete(
    report: pytest.TestReport, item: pytest.Item, call: pytest.CallInfo[None], state: SessionState
) -> None:
    """Mark the report of a test that used a VM; where it failed, attach evidence and keep files."""
    harness = state.harness
    assert harness is not None
    vms = machines_of(item, state)
    owners = _owners(item)
    # An attribute of the report travels from an xdist worker to the controller by itself.
    report.qemuvm_used = bool(harness.used_by.intersection(owners))  # type: ignore[attr-defined]
    report.qemuvm_starts = dict(harness.live_templates.take_starts())  # type: ignore[attr-defined]
    if call.when == "teardown":
        return
    done = _done_to(owners, state)
    if report.failed:
        # A LaunchError shows the command line itself, 3,000 characters; a GuestBootError the console's end.
        said = str(call.excinfo.value) if call.excinfo is not None else ""
        report.sections.extend(done)
        for vm in vms:
            report.sections.extend((title, text) for title, text in sections(vm) if text not in said)
    keep = state.settings.keep
    if (keep == "always" and call.when == "call") or (keep != "never" and report.failed):
        directory = artifacts_of(item.nodeid, state)
        shutil.rmtree(directory, ignore_errors=True)
        for vm in vms:
            _keep(vm, directory / vm.name, report, harness.audited(vm.name))
        _keep_timeline(directory, done, report)
        _keep_frames(directory, owners, state, report)


def _done_to(owners: Sequence[str], state: SessionState) -> list[tuple[str, str]]:
    """Return what was done to machines and networks on the test's request, as sections of a report."""
    assert state.harness is not None
    timeline = state.harness.faults.timeline
    moments = timeline.of(*owners)
    if not moments:
        return []
    from pytest_qemuvm.machine.faults.timeline import written  # noqa: PLC0415  # few tests break things

    return [*timeline.attached(*owners), ("what was done to machines and networks", written(moments))]


def _keep_frames(target: Path, owners: Sequence[str], state: SessionState, report: pytest.TestReport) -> None:
    """Keep the last frames of each segment, and what was captured, and say where."""
    assert state.harness is not None
    for network in (each for owner in owners for each in state.harness.networks_owned_by(owner)):
        try:
            target.mkdir(parents=True, exist_ok=True)
            kept = network.keep_frames(target)
        except (OSError, QemuVMError) as error:
            report.sections.append((f"frames of network {network.name} could not be kept", str(error)))
            continue
        if kept and report.failed:
            report.sections.append((f"network {network.name}: frames", "\n".join(map(str, kept))))


def _keep_timeline(target: Path, done: list[tuple[str, str]], report: pytest.TestReport) -> None:
    """Keep what was done, in one file for all machines."""
    if not done:
        return
    try:
        target.mkdir(parents=True, exist_ok=True)
        (target / TIMELINE).write_text("".join(f"{title}\n{text}\n\n" for title, text in done))
    except OSError as error:
        report.sections.append(("the timeline could not be kept", str(error)))


def _keep(vm: VM, target: Path, report: pytest.TestReport, audit: list[dict[str, Any]]) -> None:
    """Keep a VM's files and say where, or why not: an exception here would end the whole run."""
    try:
        if keep_files(vm, target, audit) and report.failed:
            report.sections.append((f"VM {vm.name}: kept", str(target)))
    except OSError as error:
        report.sections.append((f"VM {vm.name}: could not be kept", str(error)))


def machines_of(item: pytest.Item, state: SessionState) -> list[VM]:
    """Return the VMs that a test has to do with: its own, and those of wider scope that it uses."""
    harness = state.harness
    assert harness is not None
    return [vm for owner in _owners(item) for vm in harness.owned_by(owner)]


def _owners(item: pytest.Item) -> list[str]:
    """Return the test, and the wider scopes that it uses machines or networks of."""
    names = getattr(item, "fixturenames", ())
    owners = [item.nodeid]
    if {"module_vm_factory", "module_network_factory"}.intersection(names):
        owners.append(item.nodeid.partition("::")[0])
    if {"session_vm_factory", "session_network_factory"}.intersection(names):
        owners.append("session")
    return owners


def sections(vm: VM) -> list[tuple[str, str]]:
    """Return what a VM has to say: its command line, its last QMP exchanges, its console's end, its log."""
    found = [(f"VM {vm.name}: command line", shlex.join(vm.plan.standalone_argv()))]
    if vm.started_as is not None and vm.plan.boot != "none":
        pool = " out of the pool" if vm.from_pool else ""
        how = f"as a clone{pool}" if vm.cold_because is None else f"by booting: {vm.cold_because}"
        found.append((f"VM {vm.name}: how it came up", how))
    transcript = vm.transcript()
    if transcript:
        found.append((f"VM {vm.name}: last QMP exchanges", "\n".join(transcript[-TRANSCRIPT_LINES:])))
    if vm.console_log is not None:
        found.append((f"VM {vm.name}: console, last lines", vm.console_log.tail() or "(nothing)"))
    if vm.log.strip():
        found.append((f"VM {vm.name}: log of QEMU", vm.log.rstrip()))
    return found


def artifacts_of(nodeid: str, state: SessionState) -> Path:
    """Return the directory for what is kept of a test: ``<artifacts>/<test>``."""
    return state.artifacts / file_name(nodeid)


def keep_files(vm: VM, target: Path, audit: list[dict[str, Any]]) -> bool:
    """Copy what explains a VM to a directory, its part of the audit too; return whether there was anything.

    Disks are not copied: they can be large, and the directory is meant to be uploaded by CI.
    """
    if not vm.run_dir.is_dir():
        return False
    target.mkdir(parents=True)
    _write_command(target, vm)
    if vm.record.starts:
        from pytest_qemuvm.qmp.audit import readable  # noqa: PLC0415  # only what is kept needs it

        (target / "audit.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in audit))
        (target / "audit.txt").write_text(readable(audit) + "\n")
        (target / "qmp.txt").write_text("\n".join(vm.transcript()) + "\n")
        if vm.console_log is not None:
            (target / "console.txt").write_text(vm.console_log.text)
    (target / "plan.json").write_text(json.dumps(vm.plan.as_dict(), indent=2) + "\n")
    captures = [path.name for path in vm.run_dir.glob("*.pcap")]
    for name in ("qemu.log", "firmware.bin", *captures):
        if (vm.run_dir / name).exists():
            shutil.copyfile(vm.run_dir / name, target / name)
    return True


def _write_command(target: Path, vm: VM) -> None:
    """Write a script that starts the same machine by hand, with the kept directory for its own."""
    words = shlex.join(vm.plan.standalone_argv()).replace(f"{vm.run_dir}/", "./")
    script = target / "command.sh"
    script.write_text(
        "#!/bin/sh\n# The same machine by hand: QMP is on the terminal, disks are not kept.\n"
        f'cd "$(dirname "$0")" || exit\nexec {words}\n'
    )
    script.chmod(0o755)


def file_name(nodeid: str) -> str:
    """Return a node id as a file name: short enough, and different for different tests."""
    import hashlib  # noqa: PLC0415

    plain = re.sub(r"[^A-Za-z0-9_.=-]+", "-", nodeid).strip("-")
    if len(plain) <= 120:
        return plain
    return f"{plain[:100]}-{hashlib.blake2s(nodeid.encode(), digest_size=6).hexdigest()}"
