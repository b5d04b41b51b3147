"""Each test here runs a pytest of its own, in a process of its own, and looks at what it leaves behind."""

import os
import shutil
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from pytest_qemuvm.host.paths import cache_dir

CACHE = cache_dir()  # before pytester gives each test a HOME of its own


NEIGHBOUR = "qv-neighbour"
"""Another session, which lives beside those that the tests run and is none of what they leave."""


class Remains:
    """What a run left on the host: its processes and files, told by a temporary directory of its own."""

    def __init__(self, directory):
        self.directory = directory

    def processes(self):
        found = []
        for process in psutil.process_iter(["cmdline", "status"]):
            words = process.info["cmdline"] or []
            if str(self.directory) in " ".join(words) and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process)
        return found

    def tagged(self):
        """Return the sessions' tags that processes started from here carry, each once for each process."""
        found = []
        for environ in Path("/proc").glob("[0-9]*/environ"):
            try:
                words = environ.read_bytes().decode(errors="replace").split("\0")
            except OSError:  # gone, or somebody else's
                continue
            if f"TMPDIR={self.directory}" in words:
                found += [word.partition("=")[2] for word in words if word.startswith("QEMUVM_SESSION=")]
        return found

    def files(self):
        """Return files and sessions' directories; the empty directory above these may stay."""
        found = []
        for parent, directories, files in os.walk(self.directory):  # does not mind what vanishes meanwhile
            found += [Path(parent, name) for name in files]
            found += [Path(parent, name) for name in directories if name.startswith("qv-")]
        return [path for path in found if NEIGHBOUR not in str(path)]

    def wait_until_gone(self, seconds=10):
        """Return whether everything is gone; what a reaper removes goes a moment after its pytest."""
        deadline = time.monotonic() + seconds
        while self.processes() or self.files():
            if time.monotonic() > deadline:
                return False
            psutil.wait_procs(self.processes(), timeout=0.05)
        return True


@pytest.fixture(autouse=True)
def only_what_is_needed(request, monkeypatch):
    """Have each pytest load this plugin and xdist, and no others: these are most of its start.

    That it is found by its entry point is shown by tests marked ``all_plugins``, and by all examples.
    """
    if request.node.get_closest_marker("all_plugins") is None:
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        monkeypatch.setenv("PYTEST_PLUGINS", "pytest_qemuvm.plugin,xdist.plugin")


@pytest.fixture
def remains(monkeypatch):
    # Short, as a directory for sockets has to be: pytest's own tmp_path is too long.
    directory = Path(tempfile.mkdtemp(prefix="qv", dir="/tmp"))
    monkeypatch.setenv("TMPDIR", str(directory))
    yield Remains(directory)
    for process in Remains(directory).processes():
        process.kill()
    shutil.rmtree(directory)


@pytest.fixture
def run(pytester, remains, monkeypatch):
    """Run pytest in a process of its own, free of the settings of the run around it."""
    theirs = ("VMAN_OPERATOR_DRY_RUN", "PYTEST_ADDOPTS", "CI", "BUILD_NUMBER")
    for variable in os.environ:
        if variable.startswith("QEMUVM_") or variable in theirs:
            monkeypatch.delenv(variable)
    monkeypatch.setenv("QEMUVM_CACHE", str(CACHE))

    def run_(*args):
        return pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:asyncio", *args, timeout=120)

    return run_
