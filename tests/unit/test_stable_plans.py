"""What a plan shows in every run alike, and what it shows of a test."""

from pytest_qemuvm.plan.compare import differences
from pytest_qemuvm.plan.identity import mac_address
from pytest_qemuvm.plan.stable import Stable, without_host


def test_places_are_replaced_the_longest_first():
    stable = Stable("qv-1", {"<home>": "/home/me", "<rootdir>": "/home/me/suite", "<none>": ""})
    assert stable.text("/home/me/suite/a.img /home/me/b.img") == "<rootdir>/a.img <home>/b.img"
    assert stable.value({"args": ["/home/me", 3, None, True]}) == {"args": ["<home>", 3, None, True]}


def test_what_pytest_numbers_is_not_shown():
    stable = Stable("qv-1", {})
    for path in ("/tmp/pytest-of-me/pytest-7/x0/d.raw", "/var/tmp/pytest-of-me/pytest-12/popen-gw1/x0/d.raw"):
        assert stable.text(f"filename={path}") == "filename=<tmp>/x0/d.raw"


def test_names_that_were_chosen_are_numbered_and_names_that_were_given_stay():
    stable = Stable("qv-1", {"<session>": "/run/qv-1"}, ["vm17", "vm3"])
    assert stable.text("guest=vm17@qv-1") == "guest=<vm0>@<tag>"
    assert stable.text("/run/qv-1/vm3/disk0.qcow2") == "<session>/<vm1>/disk0.qcow2"
    assert stable.text("vm170 my-vm3 vm3.log vm4") == "vm170 my-vm3 vm3.log vm4"


def test_sockets_and_disks_are_numbered_as_they_appear():
    stable = Stable("qv-1", {})
    assert stable.text("/s/qmp@9 /s/serial@11 /s/qmp@9") == "/s/<qmp@0> /s/<serial@1> /s/<qmp@0>"
    assert stable.text("disk-4 disk-7 disk-4") == "<disk-0> <disk-1> <disk-0>"


def test_only_addresses_of_the_harnesss_choice_are_replaced():
    stable = Stable("qv-1", {})
    stable.knows("web")
    mine, hot = mac_address("qv-1", "web", 0), mac_address("qv-1", "web/hot", 1)
    given = "52:54:00:12:34:56"
    assert stable.text(f"mac={hot} {mine} {hot} {given}") == f"mac=<mac0> <mac1> <mac0> {given}"


def test_the_host_is_not_in_a_command_line():
    argv = ["/opt/qemu-new/bin/qemu", "-accel", "kvm", "-cpu", "host", "-m", "256", "-kernel", "/x/bzImage"]
    shown = [
        "qemu-system-x86_64",
        "-accel",
        "<accelerator>",
        "-cpu",
        "<cpu>",
        "-m",
        "256",
        "-kernel",
        "<tiny>/vmlinux",
    ]
    assert without_host(argv, "qemu-system-x86_64") == shown


def test_files_of_plans_are_compared_test_by_test():
    one = {"a": [{"argv": ["q", "-m", "1"]}], "b": [], "same": [{"argv": ["q"]}]}
    other = {"a": [{"argv": ["q", "-m", "2"]}], "c": [], "same": [{"argv": ["q"]}]}
    found = differences(one, other, ("A", "B"))
    assert [told.splitlines()[0] for told in found] == ["a:", "b: only in A", "c: only in B"]
    assert {'-      "1"', '+      "2"'} <= set(found[0].splitlines())
    assert differences(one, one, ("A", "B")) == []
