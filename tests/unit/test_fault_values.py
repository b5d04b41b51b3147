"""Faults of the simulator as values: what they say, and what they refuse."""

import json
import signal

import pytest

from pytest_qemuvm import (
    CrashAfter,
    CrashAtLaunch,
    DisconnectAfter,
    EventStorm,
    GuestModel,
    HangAfter,
    HangAtLaunch,
    RefuseUnplug,
    SlowReplies,
    SplitPackets,
)
from pytest_qemuvm.errors import SpecError
from pytest_qemuvm.spec.faults import encoded

TOLD = [
    (CrashAtLaunch(3, stderr="no"), {"launch": {"status": 3, "stderr": "no"}}),
    (CrashAtLaunch(signal=signal.SIGABRT, stderr="no"), {"launch": {"signal": 6, "stderr": "no"}}),
    (HangAtLaunch(), {"launch": {"hang": True}}),
    (CrashAfter(2), {"crash_after": {"commands": 2, "signal": 9}}),
    (CrashAfter(0, signal=None, status=4), {"crash_after": {"commands": 0, "status": 4}}),
    (HangAfter(1), {"hang_after": 1}),
    (DisconnectAfter(5), {"disconnect_after": 5}),
    (SlowReplies(20), {"slow_ms": 20}),
    (SplitPackets(), {"split": 1}),
    (EventStorm(7), {"storm": {"event": "RTC_CHANGE", "count": 7}}),
    (EventStorm(7, "STOP", {"a": 1}), {"storm": {"event": "STOP", "data": {"a": 1}, "count": 7}}),
    (RefuseUnplug(), {"unplug": "refuse"}),
    (RefuseUnplug(("disk0", "nic0")), {"unplug": {"refuse": ["disk0", "nic0"]}}),
    (GuestModel("refusing"), {"guest": {"model": "refusing", "after_ms": 10}}),
    (GuestModel("cooperative", 0), {"guest": {"model": "cooperative", "after_ms": 0}}),
]


@pytest.mark.parametrize(("fault", "told"), TOLD)
def test_what_the_simulator_is_told(fault, told):
    assert json.loads(encoded([fault])) == told


def test_several_faults_are_told_together_and_none_is_nothing():
    assert json.loads(encoded([SlowReplies(5), SplitPackets(3)])) == {"slow_ms": 5, "split": 3}
    assert encoded([]) == ""


@pytest.mark.parametrize(
    "make",
    [
        lambda: CrashAtLaunch(256),
        lambda: CrashAtLaunch(signal=999),
        lambda: CrashAtLaunch(stderr=b"no"),
        lambda: CrashAfter(-1),
        lambda: CrashAfter("3"),
        lambda: HangAfter(True),
        lambda: DisconnectAfter(1.5),
        lambda: SlowReplies(0),
        lambda: SlowReplies(10**9),
        lambda: SplitPackets(0),
        lambda: EventStorm(0),
        lambda: EventStorm(10**9),
        lambda: EventStorm(1, ""),
        lambda: EventStorm(1, data={"a": {1}}),
        lambda: RefuseUnplug("disk0"),
        lambda: RefuseUnplug((1,)),
        lambda: GuestModel("polite"),
        lambda: GuestModel("absent", -1),
        lambda: encoded([SlowReplies(1), SlowReplies(2)]),
        lambda: encoded([HangAtLaunch(), CrashAtLaunch()]),
        lambda: encoded(["crash"]),
    ],
)
def test_what_makes_no_sense_is_refused(make):
    with pytest.raises(SpecError):
        make()


def test_faults_are_frozen():
    with pytest.raises(AttributeError):
        SlowReplies(5).milliseconds = 6
