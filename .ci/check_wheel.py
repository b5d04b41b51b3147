# ruff: noqa: INP001  # a script, run by its path
"""Build the wheel, look into it, install it alone, and run the README's quick start on it.

``tox run -e package``, or ``python .ci/check_wheel.py`` with virtualenv installed. What it makes lies in a
temporary directory that it removes.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "pytest_qemuvm"
MUST_HAVE = ("py.typed", "guest/rootfs/", "qmp/classes.json", "sim/data/7.2/", "sim/data/10.0/")
"""Not Python, so that a packager may leave them out unnoticed: files, and directories that hold some."""

DRY_RUN = """
import pytest

@pytest.mark.qemuvm(template="bare")
def test_without_qemu(vm, disk_factory):
    disk = disk_factory("4M")
    vm.attach(disk)
    vm.detach(disk)
"""
PROGRAM = f"""
import ast, importlib, pkgutil, re, sys
from importlib import metadata
from pathlib import Path

import {PACKAGE}

def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()

providers = metadata.packages_distributions()
declared = {{plain(re.match(r"[A-Za-z0-9_.-]+", line)[0]) for line in metadata.requires("pytest-qemuvm")}}
undeclared = set()
for path in Path({PACKAGE}.__file__).parent.rglob("*.py"):
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        # A program that is run by its path finds what lies beside it.
        beside = path.parent.glob("*.py") if path.stem.endswith("_main") else ()
        known = {{*sys.stdlib_module_names, "{PACKAGE}", *(other.stem for other in beside)}}
        for name in {{name.partition(".")[0] for name in names}} - known:
            # Also what is imported inside a function, which importing the module does not show.
            if not declared & {{plain(provider) for provider in providers.get(name, ())}}:
                undeclared.add(f"{{path.name}} imports {{name}}")
if undeclared:
    sys.exit(f"not declared as dependencies: {{sorted(undeclared)}}")
for module in pkgutil.walk_packages({PACKAGE}.__path__, "{PACKAGE}."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""
"""Run in the new environment: every import is of something declared, and every module can be imported."""


def main() -> int:
    """Do all of it; a CheckFailed or a failing command is the result."""
    with tempfile.TemporaryDirectory(prefix="qvwheel-") as name:
        work = Path(name)
        wheel = build(work / "dist")
        check_contents(wheel)
        python = install(wheel, work / "venv")
        run([python, "-m", "pip", "check"], work)
        run([python, "-W", "error", "-c", PROGRAM], work)
        run([python.with_name("qemuvm"), "--version"], work)
        quick_start(python, work / "project")
        dry_run(python, work / "project")
    say("the wheel is whole and works alone")
    return 0


class CheckFailed(SystemExit):
    """The wheel is not what it should be."""


def build(directory: Path) -> Path:
    """Build the wheel from the checkout."""
    run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", f"--wheel-dir={directory}", ROOT], ROOT
    )
    (wheel,) = directory.glob("*.whl")
    return wheel


def check_contents(wheel: Path) -> None:
    """Compare the files of the package in the wheel with those in the checkout."""
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if not name.endswith("/")}
    sources = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / PACKAGE).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    packed = {name for name in inside if name.startswith(f"{PACKAGE}/")}
    for what in MUST_HAVE:
        if not any(name == f"{PACKAGE}/{what}" or name.startswith(f"{PACKAGE}/{what}") for name in packed):
            raise CheckFailed(f"{wheel.name} has no {PACKAGE}/{what}")
    if packed != sources:
        missing, extra = sorted(sources - packed), sorted(packed - sources)
        raise CheckFailed(f"{wheel.name}: missing {missing}, not in the checkout {extra}")
    others = {name.partition("/")[0] for name in inside - packed}
    if len(others) != 1 or not others.pop().endswith(".dist-info"):
        raise CheckFailed(f"{wheel.name} would install more than {PACKAGE}: {sorted(inside - packed)}")
    if not any(name.endswith("/LICENSE") for name in inside):
        raise CheckFailed(f"{wheel.name} has no LICENSE")
    say(f"{wheel.name}: {len(packed)} files of the package, all of the checkout")


def install(wheel: Path, directory: Path) -> Path:
    """Install the wheel with what it declares and nothing else; return the environment's Python."""
    # Not venv, because some distributions leave out what it needs to put pip into an environment.
    run([sys.executable, "-m", "virtualenv", "--quiet", directory], ROOT)
    python = directory / "bin" / "python"
    run([python, "-m", "pip", "install", "--quiet", wheel], directory)
    return python


def quick_start(python: Path, project: Path) -> None:
    """Run the first test that README.md shows, in a directory with nothing else in it."""
    project.mkdir()
    (project / "test_quick_start.py").write_text(first_test((ROOT / "README.md").read_text()))
    run(
        [python, "-W", "error", "-m", "pytest", "--qemu-real", "--qemu-strict", "-p", "no:cacheprovider"],
        project,
    )


def dry_run(python: Path, project: Path) -> None:
    """Run a test without QEMU: the simulator and its records have to come along."""
    (project / "test_dry_run.py").write_text(DRY_RUN)
    command = [python, "-W", "error", "-m", "pytest", "--qemu-dry-run", "--qemu-strict", "test_dry_run.py"]
    run([*command, "-p", "no:cacheprovider"], project, PATH=str(project))


def first_test(text: str) -> str:
    """Return the first Python block that holds a test."""
    for block in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        if re.search(r"^def test_", block, re.MULTILINE):
            return str(block)
    raise CheckFailed("README.md shows no test: a python block with a function test_...")


def run(command: list[str | Path], directory: Path, **variables: str) -> None:
    """Run a command, shown as it is, with these variables; raises CheckFailed if it fails."""
    words = [str(word) for word in command]
    say("$ " + " ".join(word if "\n" not in word else "(program)" for word in words))
    # Neither the environment's nor the checkout's packages may help out.
    environment = {
        key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")
    } | variables
    status = subprocess.run(words, cwd=directory, env=environment, check=False).returncode
    if status != 0:
        raise CheckFailed(f"failed with status {status}: {' '.join(words[:4])} ...")


def say(text: str) -> None:
    """Write a line at once, in order with what commands write."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
