"""Tell whether KVM is there, open to this user, and runs kernel code natively."""

from __future__ import annotations

import grp
import json
import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_qemuvm.host.bounded import run_bounded

NATIVE_NS = 20.0
"""At most this many nanoseconds per iteration of a two-instruction loop. Natively it takes under 1, on a
busy nested host under 5; where KVM emulates each instruction, 500 to 2,500."""

_PROBE_SECONDS = 10.0
"""The probe takes 20 to 60 ms."""


@dataclass(frozen=True, slots=True)
class KvmAnswer:
    """What the probe found: ``reason`` is a phrase for people, whether good or bad."""

    native: bool
    reason: str
    hint: str | None = None


def probe_kvm(device: str) -> KvmAnswer:
    """Run the probe in a process of its own and judge what it says. Takes about 50 ms, at most 10 s."""
    refused = refusal(device)
    if refused is not None:
        return refused
    program = Path(__file__).with_name("kvm_probe.py")
    try:
        outcome = run_bounded(
            [sys.executable, "-I", "-S", str(program), device], seconds=_PROBE_SECONDS, cpu_seconds=30
        )
    except OSError as error:
        return KvmAnswer(native=False, reason=f"the probe cannot be started: {error}")
    if outcome.status is None:
        return KvmAnswer(
            native=False, reason=f"a few instructions did not finish within {_PROBE_SECONDS:.0f} s"
        )
    try:
        report = json.loads(outcome.stdout)
    except ValueError:
        last = outcome.stderr.strip().splitlines()[-1:] or ["it wrote nothing"]
        return KvmAnswer(native=False, reason=f"the probe failed: {outcome.ending()}, {last[0]}")
    return judge(report)


def judge(report: Any) -> KvmAnswer:
    """Turn the probe's JSON into an answer."""
    match report:
        case {"failed": str(step), "why": why}:
            return KvmAnswer(native=False, reason=f"cannot {step}: {why}")
        case {"failed": None, "ring0_ns": float(ring0), "ring3_ns": float(ring3)}:
            pass
        case _:
            return KvmAnswer(native=False, reason=f"the probe said {report!r}")
    if ring0 > NATIVE_NS:
        return KvmAnswer(native=False, reason=_slow("kernel-mode", ring0))
    if ring3 > NATIVE_NS:
        return KvmAnswer(native=False, reason=_slow("user-mode", ring3))
    return KvmAnswer(native=True, reason=f"{ring0:.2g} ns per iteration in ring 0, {ring3:.2g} in ring 3")


def _slow(what: str, nanoseconds: float) -> str:
    return f"{what} code runs at {nanoseconds:.0f} ns per iteration (native is under 5)"


def refusal(device: str) -> KvmAnswer | None:
    """Answer without a probe where the device is missing or closed to this user."""
    try:
        info = Path(device).stat()
    except FileNotFoundError:
        return KvmAnswer(
            native=False,
            reason=f"there is no {device}",
            hint="load kvm_intel or kvm_amd, or give this machine nested virtualisation",
        )
    except OSError as error:
        return KvmAnswer(native=False, reason=str(error))
    if os.access(device, os.R_OK | os.W_OK):
        return None
    mode = stat.S_IMODE(info.st_mode)
    group = _group_name(info.st_gid)
    reason = (
        f"permission denied: {device} is mode {mode:o}, group {group}, and you are not allowed to open it"
    )
    if mode & 0o060 == 0o060 and info.st_gid != 0:
        hint = f"add yourself to group {group}: sudo usermod -aG {group} $USER, then log in again"
    else:
        hint = f"let yourself in: sudo setfacl -m u:$USER:rw {device}"
    return KvmAnswer(native=False, reason=reason, hint=hint)


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
