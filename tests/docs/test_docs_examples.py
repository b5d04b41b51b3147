"""What the documentation shows is run: every Python block is a file of tests, in one pytest on real machines.

A block that is no test says so and why, as in ``python notest: fails on purpose``; it must still compile.
"""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree as ET

import pytest
import yaml

from pytest_qemuvm import errors
from pytest_qemuvm.cli import _COMMANDS
from pytest_qemuvm.guest.channel import ExecResult
from pytest_qemuvm.guest.console import Console
from pytest_qemuvm.host.switch import Capture, Service
from pytest_qemuvm.machine.caches import PowerCut
from pytest_qemuvm.machine.enduring import Enduring
from pytest_qemuvm.machine.faults.chaos_run import ChaosRun
from pytest_qemuvm.machine.faults.facade import VMFaults
from pytest_qemuvm.machine.faults.ledger import Fault
from pytest_qemuvm.machine.harness import Harness
from pytest_qemuvm.machine.lifecycle import Lifecycle
from pytest_qemuvm.machine.networks.network import Network
from pytest_qemuvm.machine.observer import Observer
from pytest_qemuvm.machine.vm import VM
from pytest_qemuvm.plugin import __all__ as fixtures
from pytest_qemuvm.qmp import EventLog, Qmp
from pytest_qemuvm.spec.settings import OPTIONS
from pytest_qemuvm.spec.vm import SPEC_KEYS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
REFERENCE = ROOT / "docs" / "reference.md"
FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\((?!https?:|mailto:)(?P<target>[^)#\s]*)(?:#(?P<anchor>[^)\s]*))?\)")


class Block(NamedTuple):
    """A fenced block of a page."""

    name: str
    """A module's name: page and line."""
    info: str
    code: str

    @property
    def language(self):
        return self.info.partition(" ")[0]


def blocks():
    for page in PAGES:
        text = page.read_text()
        stem = re.sub(r"\W+", "_", page.relative_to(ROOT).with_suffix("").as_posix())
        for found in FENCE.finditer(text):
            line = text.count("\n", 0, found.start()) + 1
            yield Block(f"test_{stem}_{line}", found["info"].strip(), found["code"])


BLOCKS = list(blocks())
PYTHON = [block for block in BLOCKS if block.language == "python"]
RUN = [block for block in PYTHON if block.info == "python"]
HOST = [block for block in RUN if 'needs="net-admin"' in block.code]
TESTS = [block for block in RUN if block not in HOST]
DRY = [block for block in TESTS if "plans_and_dry_run" in block.name]


def by_name(chosen):
    return pytest.mark.parametrize("block", [pytest.param(block, id=block.name) for block in chosen])


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Run all blocks in one pytest; give by module what is wrong with each of its tests, "" for nothing."""
    return run_blocks(TESTS, ["--qemu-real"], tmp_path_factory.mktemp("docs"))


@pytest.fixture(scope="module")
def dry_outcomes(tmp_path_factory):
    """Do that in a dry-run, with the blocks that are about it."""
    return run_blocks(DRY, ["--qemu-dry-run"], tmp_path_factory.mktemp("docs"))


@pytest.fixture(scope="module")
def host_outcomes(tmp_path_factory):
    """Run the blocks that change the host's network, in a network namespace of their own."""
    alone = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--net"]
    options = ("--qemu-real", "--qemu-network-dry-run=no")
    return run_blocks(HOST, options, tmp_path_factory.mktemp("docs"), alone)


def run_blocks(chosen, mode, directory, around=()):
    (directory / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\njunit_family = xunit1\n")
    for block in chosen:
        (directory / f"{block.name}.py").write_text(block.code)
    without = [f"-pno:{name}" for name in ("cacheprovider", "asyncio", "randomly")]
    options = ("-n2", "--strict-markers", *mode, "--junitxml=report.xml")
    result = subprocess.run(
        [*around, sys.executable, "-m", "pytest", *without, *options],
        cwd=directory,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=420,
        check=False,
    )
    report = directory / "report.xml"
    assert report.exists(), result.stdout + result.stderr
    found = {}
    for case in ET.parse(report).iter("testcase"):
        module = Path(case.get("file") or case.get("name")).stem
        found.setdefault(module, []).append("\n".join(complaint(child) for child in case))
    return found


def environment():
    """Return this process's environment without the settings of the run around it."""
    kept = {"QEMUVM_CACHE", "QEMUVM_BINARY", "QEMUVM_KERNEL", "QEMUVM_ACCEL"}
    return {
        name: value
        for name, value in os.environ.items()
        if name in kept or not name.startswith(("QEMUVM_", "PYTEST_"))
    }


def complaint(child):
    if child.tag in ("failure", "error", "skipped"):
        return f"{child.tag}: {child.get('message')}\n{child.text}"
    return ""


@by_name(TESTS)
def test_a_python_block_is_a_file_of_tests_that_pass(outcomes, block):
    found = outcomes.get(block.name)
    assert found, f"no test in it:\n{block.code}"
    for wrong in found:
        # An example of what only some hosts can do is skipped on the others.
        if wrong and not ("needs=" in block.code and wrong.startswith("skipped: needs ")):
            pytest.fail(wrong, pytrace=False)


@by_name(DRY)
def test_what_is_said_of_dry_run_is_so_in_one(dry_outcomes, block):
    found = dry_outcomes.get(block.name)
    assert found, f"no test in it:\n{block.code}"
    for wrong in found:
        if wrong and not ("needs=" in block.code and wrong.startswith("skipped: dry-run: ")):
            pytest.fail(wrong, pytrace=False)


@by_name(HOST)
def test_what_is_said_of_the_hosts_network_is_so_where_it_may_change(host_outcomes, block):
    assert host_outcomes.get(block.name) == [""]


@by_name([block for block in PYTHON if block.info != "python"])
def test_a_python_block_that_is_no_test_says_why_and_compiles(block):
    assert re.fullmatch(r"python notest: \S.{5,}", block.info)
    compile(block.code, block.name, "exec")


@by_name([block for block in BLOCKS if block.language in ("toml", "yaml")])
def test_settings_and_workflows_can_be_read(block):
    assert {"toml": tomllib.loads, "yaml": yaml.safe_load}[block.language](block.code)


def test_every_block_says_what_it_is():
    known = {"python", "toml", "ini", "yaml", "sh", "text", "console"}
    assert {block.name: block.info for block in BLOCKS if block.language not in known} == {}


def anchors(page):
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for link in LINK.finditer(FENCE.sub("", page.read_text())):
        target = (page.parent / link["target"]).resolve() if link["target"] else page
        assert target.exists(), link[0]
        if link["anchor"]:
            assert link["anchor"] in anchors(target), link[0]


def error_names():
    kinds = [value for value in vars(errors).values() if isinstance(value, type)]
    return [kind.__name__ for kind in kinds if issubclass(kind, errors.QemuVMError)]


POOLED = ("start_ahead", "give_up", "is_pooled", "ahead_of")
"""What only the pool uses of a VM."""


ENDURED = {name for name in vars(Enduring) if not name.startswith("_") and not hasattr(Lifecycle, name)}
"""What only faults use of a VM."""


def unnamed(names):
    """Return those that the reference does not name in code's type."""
    text = REFERENCE.read_text()
    return [name for name in sorted(names) if not re.search(rf"`(?:[\w ]+\.)?{re.escape(name)}\b", text)]


@pytest.mark.parametrize(
    "names",
    [
        pytest.param([name for name in fixtures if not name.startswith("_")], id="fixtures"),
        pytest.param(SPEC_KEYS, id="keys"),
        pytest.param([option.flag_name for option in OPTIONS], id="options"),
        pytest.param([option.ini for option in OPTIONS], id="ini"),
        pytest.param([option.variable for option in OPTIONS], id="variables"),
        pytest.param(error_names(), id="errors"),
        pytest.param([f"qemuvm {module.__name__.rpartition('.')[2]}" for module in _COMMANDS], id="commands"),
    ],
)
def test_the_reference_names_all_that_can_be_said(names):
    assert unnamed(names) == []


@pytest.mark.parametrize(
    ("kind", "internal"),
    [
        (
            VM,
            {"plug", "live", "monitor", "is_changing", "unseen_panic", "reconcile"}
            | {"cut_power", "has_guest", "require_guest", "console_log", "prepare_as", "go_on", *POOLED}
            | ENDURED,
        ),
        (VMFaults, set()),
        (
            Network,
            {"wire", "backend", "launch_spec", "discard", "keep_frames"}
            | {"joints", "connect", "outlet"}
            | {"disconnect", "overlaps"},
        ),
        (Capture, {"abandon"}),
        (Service, set()),
        (Fault, {"aside", "revives", "undo", "turn"}),
        (ChaosRun, set()),
        (ExecResult, set()),
        (PowerCut, set()),
        (
            Harness,
            {
                "create",
                "create_started",
                "template_deleted",
                "make_vm",
                "spec_for",
                "boot_files",
                "owned_by",
                "vm_started",
                "vm_deleted",
            }
            | {"create_network", "networks_owned_by"}
            | {"create_disk", "make_disk", "disks_owned_by", "create_template", "templates_owned_by"}
            | {
                "close",
                "permission_changed",
                "as_dict",
                "end",
                "recordings",
                "sim_faults",
                "faults",
            },
        ),
        (Console, {"close"}),
        (
            Qmp,
            {"connect", "close", "post", "inspect", "pose", "for_harness", "answer", "answers"}
            | {"keep_calls", "kept_calls"},
        ),
        (EventLog, {"wait", "mark_returned", "mark_shown", "was_shown", "forget", "append", "end"}),
        (Observer, {"note_start", "note_deleted", "begin", "check_scope"}),
    ],
)
def test_the_reference_names_every_public_attribute(kind, internal):
    public = {name for name in dir(kind) if not name.startswith("_")}
    assert unnamed(public - internal) == []
