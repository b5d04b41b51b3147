"""What other processes read of a session's rules: as they stand now, and nothing where there are none."""

import json
import os

import pytest

from pytest_qemuvm.host import sweep
from pytest_qemuvm.host.rulebook import Qemu, Rulebook


@pytest.fixture
def record(tmp_path):
    """Replace the session's record, as the session does."""

    def write(content):
        fresh = tmp_path / "fresh"
        fresh.write_text(content if isinstance(content, str) else json.dumps(content))
        fresh.replace(tmp_path / sweep.RECORD)

    return write


def test_a_rule_counts_as_long_as_it_stands(tmp_path, record):
    book = Rulebook(tmp_path)
    assert book.permitted() == frozenset()
    record(
        {"rules": {"permitted": ["inject-nmi"], "strict": True, "artifacts": "/a", "qemu": ["q", "f", "/c"]}}
    )
    assert book.permitted() == {"inject-nmi"}
    assert (book.strict, book.artifacts, book.qemu) == (True, "/a", Qemu("q", "f", "/c"))
    record({"rules": {"permitted": []}})
    assert book.permitted() == frozenset()
    record({"rules": {"permitted": ["inject-nmi"]}})
    assert book.permitted() == {"inject-nmi"}
    (tmp_path / sweep.RECORD).unlink()
    assert book.permitted() == frozenset()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_a_record_without_rules_permits_nothing(tmp_path, record, content):
    record(content)
    book = Rulebook(tmp_path)
    assert (book.permitted(), book.strict, book.artifacts) == (frozenset(), False, None)
    assert book.qemu == Qemu()
    assert list(book.disks("vm")) == []


def test_a_disk_is_free_for_whom_no_other_has_it_open(tmp_path, record):
    """This process stands for the QEMU that has a disk open."""
    for name in ("held", "free"):
        (tmp_path / name).touch()
    disks = [
        {"name": name, "path": str(tmp_path / name), "size": 512, "owner": "session"}
        for name in ("held", "free", "deleted")
    ]
    us = {"process": [os.getpid(), sweep.start_ticks(os.getpid())], "owner": "session", "test": ""}
    vm = {"name": "holder", "template": "bare", "memory": 1, "cpus": 1, "disks": [], **us}
    record({"disks": disks, "vms": [vm]})
    book = Rulebook(tmp_path)
    with (tmp_path / "held").open():
        assert list(book.disks("holder")) == [str(tmp_path / "held"), str(tmp_path / "free")]
        assert list(book.disks("other")) == [str(tmp_path / "free")]
    assert list(book.disks("other")) == [str(tmp_path / "held"), str(tmp_path / "free")]
