"""The command line, in this process or as a user starts it."""

from __future__ import annotations

import os
import subprocess
import sys
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
        more = {"stdin": subprocess.DEVNULL, **more}
        return subprocess.Popen(
            [sys.executable, "-m", "pytest_qemuvm", *arguments],
            env=environ,
            stdin=more.pop("stdin", subprocess.DEVNULL),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **more,
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
