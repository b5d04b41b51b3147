"""Prove an accelerator by running kernel code on it, and remember the answer until something changes.

KVM must pass two trials: a probe through its own ioctls that measures both rings (``kvm_probe``), and a
firmware that walks into 64-bit mode under the very QEMU that will be used (``firmware``), with the first CPU
model of a ladder that works. TCG must pass the second. Cold: 0.1 s. From the cache: under 1 ms.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pytest_qemuvm.errors import AcceleratorUnavailable
from pytest_qemuvm.host import probe_cache

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pytest_qemuvm.host.binary import QemuBinary

DEVICE = "/dev/kvm"

Name = Literal["kvm", "tcg"]
Wanted = Literal["auto", "kvm", "tcg"]

KVM_LADDER = ("host", "host,-arch-capabilities", "max", "qemu64")
"""Some hosts abort on ``host`` (a refused MSR 0x10a) and start with the second or the last."""
TCG_LADDER = ("max", "qemu64")

_TRIAL_SECONDS = {"kvm": 5.0, "tcg": 20.0}
"""A trial takes 20 to 40 ms. TCG's negative answer ends a session, so a busy machine gets more time there."""


class Accelerator(NamedTuple):
    """An accelerator that ran 64-bit kernel code under this binary on this host."""

    name: Name
    cpu_model: str
    """For ``-cpu``."""
    proof: str
    """What was measured, in one line: for pytest's header."""


class Trial(NamedTuple):
    """The result of trying one accelerator."""

    proven: bool
    cpu_model: str
    reason: str
    hint: str | None
    seconds: float


def prove(
    binary: QemuBinary, wanted: Wanted, cache: Path, *, device: str = DEVICE, fresh: bool = False
) -> Accelerator:
    """Return the accelerator to use.

    ``auto`` takes KVM only if it is proven, else TCG. ``fresh`` measures again whatever the cache says.
    Raises AcceleratorUnavailable, whose details are the measured reasons, if what was wanted, or with
    ``auto`` all of them, cannot be proven. No process outlives the call.
    """
    trials = _Trials(binary, cache, device, fresh=fresh)
    if wanted == "tcg":
        return _accept("tcg", trials.of("tcg"))
    fast = trials.of("kvm")
    if fast.proven or wanted == "kvm":
        return _accept("kvm", fast)
    slow = trials.of("tcg")
    if not slow.proven:
        raise AcceleratorUnavailable(
            f"no accelerator runs kernel code under {binary.path}",
            f"kvm: {fast.reason}\ntcg: {slow.reason}",
            fast.hint,
        )
    found = _accept("tcg", slow)
    return Accelerator("tcg", found.cpu_model, f"kvm rejected: {fast.reason}; {found.proof}")


def try_kvm(binary: QemuBinary, cache: Path, *, device: str = DEVICE, fresh: bool = False) -> Trial:
    """Return what was measured of KVM, good or bad, for a report."""
    return _Trials(binary, cache, device, fresh=fresh).of("kvm")


def access_key(device: str) -> dict[str, Any]:
    """Return all that decides whether this user may open the device; when it changes, ask again."""
    try:
        info = os.stat(device)  # noqa: PTH116  # once per session: the fast way
    except OSError as error:
        return {"device": device, "missing": type(error).__name__}
    return {
        "device": device,
        # Loading the module anew, a chmod and a new access list all show in these.
        "node": [info.st_ino, info.st_ctime_ns, info.st_mode, info.st_uid, info.st_gid],
        "user": [os.geteuid(), os.getegid(), *sorted(os.getgroups())],
        "open": os.access(device, os.R_OK | os.W_OK),
    }


def _accept(name: Name, trial: Trial) -> Accelerator:
    if trial.proven:
        return Accelerator(
            name, trial.cpu_model, f"{name} proven in {trial.seconds * 1000:.0f} ms{trial.reason}"
        )
    raise AcceleratorUnavailable(
        f"{name} was demanded and could not be proven on this host",
        trial.reason,
        trial.hint or ("with --qemu-accel=auto, machines run under tcg" if name == "kvm" else None),
    )


class _Trials:
    """Both answers for one binary, each made when it is first asked for, and stored together."""

    def __init__(self, binary: QemuBinary, cache: Path, device: str, *, fresh: bool) -> None:
        self._binary = binary
        self._cache = cache
        self._device = device
        # Users who share a cache differ in what they may open.
        self._file = f"accel-{binary.fingerprint}-{os.geteuid()}"
        self._key = {"boot": _boot_id(), "kvm": access_key(device)}
        stored = None if fresh else probe_cache.load(cache, self._file, self._key)
        self._answers: dict[str, Any] = stored or {}

    def of(self, name: Name) -> Trial:
        known = _as_trial(self._answers.get(name))
        if known is not None:
            return known
        trial = self._try_kvm() if name == "kvm" else _climb(self._binary, "tcg", TCG_LADDER)
        if trial.proven or name == "kvm":
            # That TCG fails is never kept: a machine too busy to answer must not be judged for good.
            self._answers[name] = trial._asdict()
            probe_cache.store(self._cache, self._file, self._key, self._answers)
        return trial

    def _try_kvm(self) -> Trial:
        from pytest_qemuvm.host import kvm  # noqa: PLC0415  # needed on a miss only

        answer = kvm.probe_kvm(self._device)
        if not answer.native:
            return Trial(proven=False, cpu_model="", reason=answer.reason, hint=answer.hint, seconds=0.0)
        trial = _climb(self._binary, "kvm", KVM_LADDER)
        if trial.proven:
            return trial._replace(reason=f", -cpu {trial.cpu_model}: {answer.reason}")
        return trial


def _as_trial(stored: Any) -> Trial | None:
    match stored:
        case {
            "proven": bool(),
            "cpu_model": str(),
            "reason": str(),
            "hint": str() | None,
            "seconds": float(),
        } if len(stored) == 5:
            return Trial(**stored)
    return None


def _boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:  # noqa: PTH123  # the fast way
            return file.read().strip()
    except OSError:
        return ""


def _climb(binary: QemuBinary, name: Name, ladder: Sequence[str]) -> Trial:
    """Run the firmware with one CPU model after the other until one works, or two have hung."""
    failures: list[str] = []
    hung = 0
    for model in ladder:
        failure, seconds = _boot_firmware(binary, name, model)
        if failure is None:
            return Trial(proven=True, cpu_model=model, reason="", hint=None, seconds=seconds)
        failures.append(f"-cpu {model}: {failure}")
        hung += failure.startswith("still running")
        if hung == 2:
            break
    return Trial(proven=False, cpu_model="", reason="; ".join(failures), hint=None, seconds=0.0)


def _boot_firmware(binary: QemuBinary, name: Name, model: str) -> tuple[str | None, float]:
    """Return why the trial failed (None if it did not) and how many seconds it took."""
    from pytest_qemuvm.host import firmware  # noqa: PLC0415  # needed on a miss only, like the next
    from pytest_qemuvm.host.bounded import run_bounded  # noqa: PLC0415

    # Handed over as an inherited descriptor: no file to name, to protect and to remove.
    rom = os.memfd_create("qemuvm-firmware", os.MFD_CLOEXEC)
    try:
        os.write(rom, firmware.image())
        argv = trial_argv(binary, name, model, rom)
        outcome = run_bounded(argv, seconds=_TRIAL_SECONDS[name], cpu_seconds=60, pass_fds=[rom])
    except OSError as error:
        return str(error), 0.0
    finally:
        os.close(rom)
    if outcome.status == firmware.PROVEN_STATUS:
        return None, outcome.seconds
    said = outcome.stderr.strip().splitlines()[-1:]
    # With -no-reboot a reset ends QEMU with status 0.
    how = "the processor reset itself" if outcome.status == 0 else outcome.ending()
    return ", ".join([how, *said]), outcome.seconds


def trial_argv(binary: QemuBinary, name: Name, model: str, rom: int) -> list[str]:
    """Return the command line that runs the firmware in descriptor ``rom``, in 16 MiB, with no display."""
    from pytest_qemuvm.host import firmware  # noqa: PLC0415  # as above

    return [
        binary.path,
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-machine", "q35", "-accel", name, "-cpu", model, "-m", "16M"),
        *("-bios", f"/proc/self/fd/{rom}"),
        *("-device", f"isa-debug-exit,iobase={firmware.EXIT_PORT:#x},iosize=0x04"),
    ]
