"""Each rule as a table: what was recorded, what is seen, what is found. Nothing here needs a machine."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_qemuvm.coherence import BUILT_IN, KINDS, Facts, Finding, Graph, Ledger, Rule, apply, checked_kind
from pytest_qemuvm.coherence.facts import DiskEntry, Failure, FileFact, ProcessFact, VMEntry, VMFacts
from pytest_qemuvm.coherence.rules import known_kinds
from pytest_qemuvm.errors import SpecError

ROOT = Path("/run/qv-1")
PARTS = ("block_nodes", "devices", "netdevs", "chardevs", "objects", "jobs", "fdsets")


def entry(name="a", state="running", **changes):
    known = {"run": 1, "process": (7, 70), "changing": False, "run_dir": ROOT / name, "plugged": Graph()}
    return VMEntry(name, state, **{**known, **changes})


def disk(state="available", holder=None, path="/run/qv-1/disks@/d.qcow2"):
    return DiskEntry("d", Path(path), state, holder)


def kinds(after, before=None, **ledger):
    found = apply(BUILT_IN, before or Facts(), after, Ledger("qv-1", ROOT, **ledger))
    return [finding.kind for finding in found]


def running(status="running", **graph):
    return {"a": VMFacts(alive=True, graph=Graph(status=status, **graph))}


@pytest.mark.parametrize(
    ("recorded", "seen", "found"),
    [
        ("running", running(), []),
        ("running", running("io-error"), []),
        ("paused", running("paused"), []),
        ("stopped", {"a": VMFacts(alive=False)}, []),
        ("running", {"a": VMFacts(alive=False)}, ["vm_state_mismatch"]),
        ("paused", {"a": VMFacts(alive=False)}, ["vm_state_mismatch"]),
        ("stopped", running(), ["vm_state_mismatch"]),
        ("paused", running(), ["vm_state_mismatch"]),
        ("running", running("paused"), ["vm_state_mismatch"]),
        ("running", {"a": VMFacts(alive=True)}, []),  # it did not answer, which is a finding of its own
    ],
)
def test_a_record_and_its_process(recorded, seen, found):
    assert kinds(Facts(vms=seen), vms=(entry(state=recorded),)) == found
    assert kinds(Facts(vms=seen), vms=(entry(state=recorded, changing=True),)) == []


@given(
    st.dictionaries(
        st.sampled_from(PARTS), st.tuples(*[st.frozensets(st.sampled_from("uvwxyz"))] * 3), min_size=1
    )
)
def test_a_leak_is_what_is_there_and_was_neither_there_before_nor_plugged(parts):
    now = {part: sets[0] for part, sets in parts.items()}
    earlier = Facts(vms=running(**{part: sets[1] for part, sets in parts.items()}))
    plugged = Graph(**{part: sets[2] for part, sets in parts.items()})
    found = apply(
        BUILT_IN, earlier, Facts(vms=running(**now)), Ledger("qv-1", ROOT, vms=(entry(plugged=plugged),))
    )
    assert {finding.key for finding in found} == {
        name for one, two, three in parts.values() for name in one - two - three
    }
    assert len(found) == sum(len(one - two - three) for one, two, three in parts.values())


def test_what_was_there_is_unknown_for_a_machine_that_was_started_meanwhile():
    assert kinds(Facts(vms=running(devices=frozenset({"x"}))), vms=(entry(),)) == []


@pytest.mark.parametrize(
    ("record", "images", "found"),
    [
        (disk(), frozenset(), []),
        (disk("attached", "a"), frozenset({__file__}), []),
        (disk("attached", "a"), frozenset(), ["disk_state_inconsistent"]),
        (disk("attached", "b"), frozenset({__file__}), ["disk_state_inconsistent"]),
        (disk(), frozenset({__file__}), ["disk_state_inconsistent"]),
    ],
)
def test_a_disk_and_who_has_it(record, images, found):
    record = DiskEntry("d", Path(__file__), record.state, record.holder)
    seen = Facts(vms=running(images=images))
    assert kinds(seen, vms=(entry(),), disks=(record,)) == found
    # While a machine is changed, its disks are as well; another's are not.
    changing = ["disk_state_inconsistent"] if record.holder == "b" else []
    assert kinds(seen, vms=(entry(changing=True),), disks=(record,)) == changing


def test_a_disk_without_a_file_is_missing_and_nothing_else_is_said_of_it():
    assert kinds(Facts(), disks=(disk("attached", "a"),)) == ["missing_disk"]


def test_processes():
    ours, reaper = ProcessFact(7, 70, zombie=False), ProcessFact(8, 80, zombie=False)
    again = ProcessFact(7, 71, zombie=False)  # the same pid, another process
    dead = ProcessFact(9, 90, zombie=True)
    known = {"vms": (entry(),), "processes": frozenset({8})}
    assert kinds(Facts(processes=frozenset({ours, reaper})), **known) == []
    assert kinds(Facts(processes=frozenset({again})), **known) == ["orphan_process"]
    assert kinds(Facts(processes=frozenset({dead})), **known) == ["zombie"]
    assert kinds(Facts(processes=frozenset({dead})), Facts(processes=frozenset({dead})), **known) == []


def test_a_process_that_is_just_being_started_is_not_an_orphan_yet():
    starting = ProcessFact(9, 90, zombie=False, argv=("qemu", "-name", "guest=a@qv-1,debug-threads=on"))
    found = Facts(processes=frozenset({starting}))
    assert kinds(found, vms=(entry(process=None, changing=True),)) == []
    assert kinds(found, vms=(entry(process=None),)) == ["orphan_process"]


@pytest.mark.parametrize(
    ("name", "is_socket", "found"),
    [
        ("s1", True, ["orphan_socket"]),
        ("a/s1", True, ["orphan_socket"]),
        ("a/qemu.log", False, []),
        ("a/x.pid", False, ["orphan_pidfile"]),
        ("gone/x.img", False, ["orphan_disk"]),
        ("disks@/x.img", False, ["orphan_disk"]),
        ("disks@/x.lock", False, ["orphan_lock"]),
        ("x.pid", False, ["orphan_pidfile"]),
    ],
)
def test_files(name, is_socket, found):
    seen = Facts(files=frozenset({FileFact(ROOT / name, is_socket)}))
    assert kinds(seen, vms=(entry(),)) == found
    assert kinds(seen, seen, vms=(entry(),)) == []
    assert kinds(seen, vms=(entry(),), files=frozenset({ROOT / name})) == []


def test_the_rest():
    panicked = {"a": VMFacts(alive=True, graph=Graph("guest-panicked"), unseen_panic="Oops")}
    assert kinds(Facts(vms=panicked), vms=(entry(),)) == ["unseen_panic"]
    assert kinds(Facts(lockers={Path("/d"): (4711,)})) == ["foreign_lock"]
    assert kinds(Facts(chains={"d": "no file"}, modified={"t": ("/i",)})) == [
        "broken_backing_chain",
        "template_modified",
    ]
    assert kinds(Facts(taps=frozenset({"t0", "t1"})), taps=frozenset({"t1"})) == ["orphan_tap"]
    assert kinds(Facts(failures=(Failure("processes", "OSError"),))) == ["check_error"]


def test_a_rule_that_fails_is_a_finding_and_the_others_go_on():
    def fail(*_args):
        raise ZeroDivisionError

    found = apply((Rule(("x",), fail), *BUILT_IN), Facts(), Facts(chains={"d": "?"}), Ledger("qv-1", ROOT))
    assert [finding.kind for finding in found] == ["check_error", "broken_backing_chain"]
    assert "ZeroDivisionError" in found[0].found


def test_every_kind_has_a_rule_and_a_hint_and_no_rule_an_unknown_kind():
    assert known_kinds(BUILT_IN) == KINDS


def test_a_finding_says_everything_and_equals_another_that_says_the_same():
    finding = Finding("leaked_object", "a: object x", "not there", "still there", vm="a", key="x")
    assert finding == Finding("leaked_object", "a: object x", "not there", "still there")
    for part in ("leaked_object", "a: object x", "not there", "still there", "object-del"):
        assert part in str(finding)


def test_an_unknown_kind_names_the_nearest():
    with pytest.raises(SpecError) as caught:
        checked_kind("orphan_disc")
    assert "orphan_disk" in caught.value.hint
