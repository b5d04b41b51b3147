"""Live templates in whole runs: made once for all workers and sessions, whole after any kill, and reported.

``QEMUVM_TEMPLATE_KILLS=50`` for a longer run; with ``-s`` it prints where the kills hit.
"""

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = int(os.environ.get("QEMUVM_TEMPLATE_KILLS", "2"))

SUITE = """
import pytest

@pytest.mark.parametrize("number", range(4))
@pytest.mark.qemuvm(memory="112M")
def test_it(number, vm):
    assert vm.started_as == "clone"
    assert vm.run("echo there").stdout == "there\\n"
"""


@pytest.fixture
def live(run, tmp_path, monkeypatch):
    """A cache without live templates, and all else of the user's; ``run`` has named that."""
    users = Path(os.environ["QEMUVM_CACHE"])
    cache = tmp_path / "cache"
    cache.mkdir()
    for entry in users.iterdir():
        if entry.name != "live":
            (cache / entry.name).symlink_to(entry)
    monkeypatch.setenv("QEMUVM_CACHE", str(cache))
    return cache / "live"


def manifests(live):
    return [json.loads(path.read_text()) for path in live.glob("*/manifest.json")]


def test_workers_make_one_together_and_later_runs_make_none(pytester, run, live):
    pytester.makepyfile(test_it=SUITE)
    result = run("--qemu-real", "-n2")
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["qemuvm: 4 VMs were clones, 0 booted"])
    first = manifests(live)
    assert len(first) == 1
    run("--qemu-real").assert_outcomes(passed=4)
    assert manifests(live) == first


def test_a_run_can_do_without(pytester, run, live):
    pytester.makepyfile(test_it=SUITE.replace('== "clone"', '== "cold"').replace("range(4)", "range(1)"))
    result = run("--qemu-real", "--qemu-start=cold")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["qemuvm: 0 VMs were clones, 1 booted (1 because --qemu-start=cold)"])
    assert not live.exists()


def test_a_failing_test_says_how_its_machine_came_up(pytester, run):
    pytester.makepyfile(
        """
        import pytest

        def test_clone(vm):
            assert False

        @pytest.mark.qemuvm(balloon=True)
        def test_booted(vm):
            assert False
        """
    )
    result = run("--qemu-real")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        ["*how it came up*", "as a clone", "*how it came up*", "by booting: a balloon takes memory away*"]
    )


def test_whenever_the_making_is_killed_the_next_run_finds_the_cache_in_order(pytester, run, live, remains):
    pytester.makepyfile(test_it=SUITE.replace("range(4)", "range(1)"))
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio", "--qemu-real"]

    def start():
        return subprocess.Popen(argv, cwd=pytester.path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    hits = []
    for number in range(KILLS):
        victim = start()
        # All moments from before the first file to after the last: the making takes a few seconds.
        with contextlib.suppress(subprocess.TimeoutExpired):
            victim.wait(random.Random(number).uniform(0.5, 6.0))
        victim.kill()
        victim.communicate()
        assert remains.wait_until_gone()
        entries = sorted(path.name for path in live.iterdir()) if live.exists() else []
        hits.append(entries)
        assert len(manifests(live)) == sum(not name.startswith(".") and "." not in name for name in entries)
        for save in manifests(live):
            shutil.rmtree(live / save["key"])  # so that the next has to make it too
    last = start()
    said, _ = last.communicate(timeout=120)
    assert last.returncode == 0, said.decode()
    assert len(manifests(live)) == 1
    assert not list(live.glob(".*"))
    sys.stdout.write("\n".join(["", *map(str, hits)]) + "\n")


def test_the_command_line_lists_makes_and_removes_them(pytester, run, live):
    def qemuvm(*words, status=0):
        done = subprocess.run(
            [sys.executable, "-m", "pytest_qemuvm", "templates", *words],
            cwd=pytester.path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == status, done.stderr
        return done.stdout if status == 0 else done.stderr

    assert "no live template" in qemuvm("list")
    pytester.path.joinpath("qemuvm.yaml").write_text(
        "templates:\n  db:\n    memory: 112M\n    setup: echo done >/root/log\n"
    )
    assert "db" in qemuvm("build", "db")
    first = manifests(live)
    assert "db" in qemuvm("build", "db")  # it is there: nothing is made
    assert manifests(live) == first
    key = first[0]["key"]
    assert qemuvm("list").startswith(key[:12])
    assert first[0]["digests"]["ram"] in qemuvm("show", key[:5])
    assert "no live template" in qemuvm("show", "nothing", status=1)
    assert "nothing to remove" in qemuvm("gc")
    assert "say which" in qemuvm("rm", status=2)
    assert key[:12] in qemuvm("gc", "--size", "1M")
    assert manifests(live) == []
    qemuvm("build", "tiny", "--memory", "112M")
    assert "removed" in qemuvm("rm", "--all")
    assert manifests(live) == []
