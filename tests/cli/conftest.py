"""The command line, in this process or as a user starts it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import pytest_qemuvm
from pytest_qemuvm.cli import main


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Give the command line an empty cache and no settings."""
    for name in [name for name in os.environ if name.startswith("QEMUVM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("QEMUVM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def qemuvm(cache, capsys):
    """Run a subcommand here; return its exit status, stdout and stderr."""

    def run(*arguments: str):
        try:
            status = main(arguments)
        except SystemExit as ended:
            status = ended.code
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


@pytest.fixture
def process(cache):
    """Start ``python -m pytest_qemuvm`` as a process of its own."""

    def start(*arguments: str, **more):
        root = str(Path(pytest_qemuvm.__file__).parents[1])
        environ = {**os.environ, "PYTHONPATH": root, "PYTHONWARNINGS": "error"}
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(
            [sys.executable, "-m", "pytest_qemuvm", *arguments],
            env=environ,
            text=True,
            start_new_session=True,
            **{**pipes, **more},
        )

    return start


@pytest.fixture
def bare_path(tmp_path, monkeypatch):
    """Put scripts, and nothing else, on PATH; return a function that adds one."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))

    def add(name: str, body: str = "exit 0") -> Path:
        path = directory / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return path

    return add


SUITE = """
import sys
import pytest

@pytest.fixture(scope="module")
def shared(module_vm_factory):
    return module_vm_factory("shared", template="bare")

def test_first(shared, vm_factory, disk_factory, network_factory):
    vm = vm_factory("mine", template="bare", nics=[network_factory("lan")])
    other = vm_factory("other", template="bare")
    other.stop()
    vm.attach(disk_factory("16M", name="data"))
    disk_factory("16M", name="spare")
    print("up", vm.pid, shared.pid, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def sessions(cache, tmp_path, monkeypatch):
    """Start a pytest with machines; they are up when this returns, and wait for a line."""
    # Short, as a directory for sockets has to be.
    with tempfile.TemporaryDirectory(prefix="qv", dir="/tmp") as directory:
        monkeypatch.setenv("TMPDIR", directory)
        monkeypatch.setattr(tempfile, "tempdir", directory)
        (tmp_path / "test_it.py").write_text(SUITE)
        (tmp_path / "pytest.ini").touch()
        started = []

        def start():
            options = ("-s", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio", "--qemu-real")
            process = subprocess.Popen(
                [sys.executable, "-m", "pytest", *options],
                cwd=tmp_path,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            started.append(process)
            for line in process.stdout:
                if line.startswith("up "):
                    return process, *map(int, line.split()[1:])
            pytest.fail(f"pytest ended with {process.wait()}")

        yield start
        for process in started:
            process.kill()
            process.communicate()
