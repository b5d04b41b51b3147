"""Clones of the harness against the same clones made by a raw script, and against a boot.

``python benchmarks/bench_clones.py [rounds] [--tests N] [--growth] [--plot FILE]``. The raw script starts the
command line that the harness planned, with the same saved memory and state, and does the least that a test
needs: greeting, load, ``cont``, the message that gives the guest its identity, the first command, SIGKILL.
Harness and script take turns in one process, so that a busy host is busy for both. Seconds depend on the
host, ratios hardly.

``--growth`` starts 32 clones that stay alive, and tells how long the n-th took and its memory (PSS).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from bench_machine import PidInterrupt

from pytest_qemuvm.guest.agent import AgentChannel, Identity
from pytest_qemuvm.host.capabilities import discover
from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.host.paths import cache_dir
from pytest_qemuvm.machine.harness import Harness
from pytest_qemuvm.plan import MONITOR, RAM
from pytest_qemuvm.spec.devices import DiskSpec
from pytest_qemuvm.spec.settings import resolve
from pytest_qemuvm.spec.vm import VMSpec

if TYPE_CHECKING:
    from pytest_qemuvm.machine.clones import Clone

ROUNDS = 20
ALIVE = (1, 2, 4, 8, 16, 32)
TESTS = 100
DISKS = (DiskSpec("64M"),)
SUITE = """
import pytest
from pytest_qemuvm import DiskSpec

@pytest.mark.parametrize("number", range({tests}))
@pytest.mark.qemuvm(disks=[DiskSpec("64M")])
def test_it(number, vm):
    assert vm.run("echo ready").stdout == "ready\\n"
"""


class Raw:
    """A clone made by hand."""

    def __init__(self, clone: Clone, number: int) -> None:
        self._stack = ExitStack()
        plan, save = clone.plan, clone.save
        began = time.perf_counter()
        directory = Path(tempfile.mkdtemp(prefix="raw"))
        self._stack.callback(shutil.rmtree, directory)
        pairs = {name: socket.socketpair() for name in plan.sockets}
        listener = self._stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind("")
        listener.listen()
        state = save.state.reopen()
        numbers = {name: theirs.fileno() for name, (_, theirs) in pairs.items()}
        numbers |= {MONITOR: listener.fileno(), RAM: save.ram.fileno()}
        argv = [word.replace(plan.console_log, "/dev/null") for word in plan.argv_with(numbers)]
        for image in plan.images:
            mine = directory / Path(image.path).name
            mine.write_bytes(Path(image.path).read_bytes())
            argv = [word.replace(image.path, str(mine)) for word in argv]
        self.process = subprocess.Popen(
            argv,
            pass_fds=(*numbers.values(), state),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for _, theirs in pairs.values():
            theirs.close()
        ours = {name: self._stack.enter_context(mine) for name, (mine, _) in pairs.items()}
        monitor = self._stack.enter_context(ours["qmp"].makefile("rwb", buffering=0))
        monitor.readline()
        capabilities = [{"capability": name, "state": True} for name in ("x-ignore-shared", "events")]
        for command, arguments in (
            ("qmp_capabilities", {}),
            ("migrate-set-capabilities", {"capabilities": capabilities}),
            ("migrate-incoming", {"uri": f"fd:{state}"}),
        ):
            monitor.write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
            while b'"return"' not in (line := monitor.readline()):
                assert b'"error"' not in line, line
        os.close(state)
        while b'"completed"' not in monitor.readline():
            pass
        monitor.write(b'{"execute": "cont"}\n')
        interrupt = PidInterrupt(self.process.pid)
        self._stack.callback(interrupt.close)
        self.channel = AgentChannel([ours[name] for name in plan.agent_ports], interrupt)
        self._stack.callback(self.channel.close)
        self.channel.renew(save.save.manifest.boot_id, Identity(f"raw{number}"), Deadline.after(60))
        self.ready = time.perf_counter() - began
        assert self.channel.run("echo ready", deadline=Deadline.after(60)).stdout == "ready\n"
        self.first = time.perf_counter() - began
        self._began = began

    def close(self) -> float:
        """End it and return how long its life was, in seconds."""
        self.process.kill()
        self.process.wait()
        self._stack.close()
        return time.perf_counter() - self._began


def ours(harness: Harness, spec: VMSpec) -> tuple[float, float, float]:
    """Return the seconds to ready, to the end of the first command, and to the end."""
    began = time.perf_counter()
    vm = harness.create(None, spec, "bench")
    vm.start()
    ready = time.perf_counter() - began
    assert vm.run("echo ready").stdout == "ready\n"
    first = time.perf_counter() - began
    vm.delete()
    return ready, first, time.perf_counter() - began


def by_hand(clone: Clone, number: int) -> tuple[float, float, float]:
    """Return the same of the raw script."""
    raw = Raw(clone, number)
    return raw.ready, raw.first, raw.close()


def pss(pid: int) -> float:
    """Return the memory that a process has, with its part of what it shares, in MiB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} says nothing of its memory")


def ratios(harness: Harness, clone: Clone, spec: VMSpec, rounds: int) -> None:
    """Print how the harness compares with the script, and a clone with a boot."""
    pairs = [(by_hand(clone, number), ours(harness, spec)) for number in range(rounds)]
    print(f"clones of tiny with a disk, {rounds} rounds, medians")
    for index, what in enumerate(("to ready", "to the first command's end", "to the end of it all")):
        script = statistics.median(pair[0][index] for pair in pairs)
        us = statistics.median(pair[1][index] for pair in pairs)
        ratio = statistics.median(pair[1][index] / pair[0][index] for pair in pairs)
        print(f"  {what:28} script {script * 1000:7.1f} ms  harness {us * 1000:7.1f} ms  {ratio:5.2f}")
    cold = spec.with_keywords({"start": "cold"}, "bench")
    boots = statistics.median(ours(harness, cold)[0] for _ in range(max(3, rounds // 5)))
    ready = statistics.median(pair[1][0] for pair in pairs)
    print(f"  a boot to ready {boots * 1000:.1f} ms: {boots / ready:.1f} times as long as a clone")


def whole_run(clone: Clone, tests: int) -> None:
    """Print how a run of pytest with a VM for each test compares with the raw script in a loop."""
    with tempfile.TemporaryDirectory(prefix="bench") as directory:
        Path(directory, "test_it.py").write_text(SUITE.format(tests=tests))
        argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--qemu-real", directory]
        began = time.perf_counter()
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
        run = time.perf_counter() - began
    began = time.perf_counter()
    for number in range(tests):
        by_hand(clone, number)
    loop = time.perf_counter() - began
    print(f"{tests} tests: raw loop {loop:.1f} s, pytest {run:.1f} s, ratio {run / loop:.2f}")


def growth(harness: Harness, spec: VMSpec) -> list[tuple[int, float, float]]:
    """Return, for so many clones alive, seconds to ready of the last and MiB of memory of each."""
    vms, rows = [], []
    for number in range(1, max(ALIVE) + 1):
        began = time.perf_counter()
        vm = harness.create(None, spec, "bench")
        vm.start()
        seconds = time.perf_counter() - began
        vm.run("echo ready")
        vms.append(vm)
        if number in ALIVE:
            each = statistics.mean(pss(vm.pid) for vm in vms if vm.pid is not None)
            rows.append((number, seconds, each))
            print(f"{number:3} alive: the last ready in {seconds * 1000:6.1f} ms, {each:5.1f} MiB each (PSS)")
    for vm in vms:
        vm.delete()
    return rows


def plot(rows: list[tuple[int, float, float]], path: Path) -> None:
    """Draw both as an SVG: milliseconds to ready, and MiB, over the number of clones that are alive."""
    width, height, left, bottom = 640, 320, 60, 50
    most = 1.2 * max(value for _, seconds, mib in rows for value in (seconds * 1000, mib))
    step, floor = (width - left - 90) / (len(rows) - 1), height - bottom

    def points(values: list[float]) -> str:
        at = (
            (left + index * step, height - bottom - value / most * (height - 90))
            for index, value in enumerate(values)
        )
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in at)

    series = (
        ("ms until the last is ready", "#1f6feb", [row[1] * 1000 for row in rows]),
        ("MiB of memory for each (PSS)", "#d29922", [row[2] for row in rows]),
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"',
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<line x1="{left}" y1="{floor}" x2="{width - 20}" y2="{floor}" stroke="#57606a"/>',
        f'<line x1="{left}" y1="30" x2="{left}" y2="{height - bottom}" stroke="#57606a"/>',
        f'<text x="{width / 2}" y="{height - 12}" text-anchor="middle">clones alive at once</text>',
    ]
    for index, row in enumerate(rows):
        x = left + index * step
        parts.append(f'<text x="{x:.1f}" y="{height - bottom + 18}" text-anchor="middle">{row[0]}</text>')
    for number in range(1, 5):
        value = most * number / 4 / 1.2
        y = height - bottom - value / most * (height - 90)
        parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{value:.0f}</text>')
        parts.append(f'<line x1="{left}" y1="{y:.1f}" x2="{width - 20}" y2="{y:.1f}" stroke="#d0d7de"/>')
    for index, (name, colour, values) in enumerate(series):
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{points(values)}"/>')
        parts.append(f'<text x="{left + 12 + index * 250}" y="20" fill="{colour}">{name}</text>')
    path.write_text("\n".join([*parts, "</svg>"]) + "\n", encoding="utf-8")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("rounds", type=int, nargs="?", default=ROUNDS)
    parser.add_argument("--tests", type=int, default=0, help="compare a whole run of so many tests too")
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    settings = resolve({"real": True, "coherence": "off"}, {}, {})
    harness = Harness(settings, discover(settings, cache_dir()), cache_dir(), print)
    spec = VMSpec(template="tiny", disks=DISKS)
    try:
        first = harness.create("first", spec, "bench")
        first.start()
        clone = harness.live_templates.clone_for(first)
        assert clone is not None, first.cold_because
        if arguments.rounds:
            ratios(harness, clone, spec, arguments.rounds)
        if arguments.tests:
            whole_run(clone, arguments.tests)
        if arguments.growth or arguments.plot:
            rows = growth(harness, VMSpec(template="tiny"))
            if arguments.plot:
                plot(rows, arguments.plot)
    finally:
        harness.close()


if __name__ == "__main__":
    main()
