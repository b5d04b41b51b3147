"""Commands and files through the agent of a real guest."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from pytest_qemuvm.errors import GuestCommandError, GuestCommandTimeout, SpecError, WaitTimeout
from pytest_qemuvm.guest import waits
from pytest_qemuvm.host.deadline import Deadline

EVERY_BYTE = bytes(range(256))
EVERY_BYTE_BUT_NUL = EVERY_BYTE[1:].decode("utf-8", "surrogateescape")


def soon(seconds: float = 20.0) -> Deadline:
    return Deadline.after(seconds)


def test_status_and_both_outputs_come_apart(guest):
    result = guest.run("echo out; echo err >&2; exit 7")
    assert (result.returncode, result.stdout, result.stderr, result.ok) == (7, "out\n", "err\n", False)


def test_a_signal_shows_as_128_plus_its_number(guest):
    assert guest.run("kill -TERM $$").returncode == 128 + 15


@pytest.mark.parametrize("size", [0, 1, 199, 200, 201, 65536, 65537, 300_001])
def test_output_of_any_size_is_exact(guest, size):
    result = guest.run(f"yes | tr -d '\\n' | head -c {size}; yes e | tr -d '\\n' | head -c {size} >&2")
    assert (result.stdout, result.stderr) == ("y" * size, "e" * size)


@pytest.mark.parametrize("data", [b"", b"\0", b"a\0b", EVERY_BYTE, EVERY_BYTE * 300, b"\n\n", b"!hello x\n"])
def test_input_and_output_keep_every_byte(guest, data):
    assert guest.run("cat", input=data).stdout_bytes == data
    assert guest.run("cat >&2", input=data).stderr_bytes == data


def test_commands_and_variables_keep_every_byte(guest):
    quoted = EVERY_BYTE_BUT_NUL.replace("'", "")
    result = guest.run(f"printf %s '{quoted}'; printf %s \"$WORD\" >&2", env={"WORD": EVERY_BYTE_BUT_NUL})
    assert result.stdout == quoted
    assert result.stderr == EVERY_BYTE_BUT_NUL


def test_a_long_command_works(guest):
    text = "x" * 60_000
    assert guest.run(f"printf %s {text}").stdout == text


def test_a_command_that_no_kernel_would_take_is_refused_before_it_is_sent(guest):
    with pytest.raises(SpecError):
        guest.run("x" * 200_000)
    with pytest.raises(SpecError):
        guest.run("echo a\0b")
    with pytest.raises(SpecError):
        guest.run("true", env={"NO SUCH": "name"})
    assert guest.run("true").ok


def test_without_input_there_is_none(guest):
    assert guest.run("readlink /proc/self/fd/0").stdout == "/dev/null\n"


def test_a_directory_can_be_chosen(guest):
    assert guest.out("pwd") == "/root"
    assert guest.run("pwd", cwd="/usr").stdout == "/usr\n"
    assert not guest.run("pwd", cwd="/no/such").ok


def test_nothing_is_left_of_a_command(guest):
    guest.run("export LEFT=over; cd /tmp; left() { :; }")
    assert guest.out('echo "$LEFT"; pwd') == "/root"


def test_a_syntax_error_is_the_commands_own_affair(guest):
    assert guest.run("if then '").returncode == 2
    assert guest.run("true").ok


def test_a_process_in_the_background_outlives_its_command(guest):
    started = time.monotonic()
    number = guest.out("sleep 50 & echo $!")
    assert time.monotonic() - started < 20
    guest.run(f"kill -0 {number} && kill {number}")
    assert guest.run(f"kill -0 {number}").returncode != 0 or "Z" in guest.out(
        f"cut -d' ' -f3 /proc/{number}/stat"
    )


def test_a_command_keeps_its_signals(guest):
    """A shell's background processes ignore the interrupt; a command must not be one."""
    ignored = int(guest.out("grep SigIgn /proc/self/status").split()[1], 16)
    assert not ignored & (1 << (signal.SIGINT - 1))


def test_a_command_that_overruns_is_killed_with_all_its_children(guest):
    with pytest.raises(GuestCommandTimeout) as caught:
        guest.run("echo before; sleep 4321 & setsid sleep 4322 & sleep 4323; echo after", seconds=0.6)
    assert caught.value.result.stdout == "before\n"
    assert caught.value.seconds == 0.6
    assert guest.run("ps | grep -q '[s]leep 4321'").returncode == 1
    assert guest.run("ps | grep -q '[s]leep 4323'").returncode == 1
    # It left the session, as a daemon does.
    guest.run("pkill -f '[s]leep 4322' || kill $(ps | awk '/[s]leep 4322/ {print $1}')")
    assert guest.run("echo fine").stdout == "fine\n"


def test_commands_of_several_threads_run_side_by_side(guest):
    meet = "touch /tmp/meet.{me}; while [ ! -e /tmp/meet.{other} ]; do usleep 10000; done"
    results = {}

    def work(me, other):
        results[me] = guest.run(meet.format(me=me, other=other))

    threads = [threading.Thread(target=work, args=pair) for pair in (("a", "b"), ("b", "c"), ("c", "a"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(results[me].ok for me in "abc")


def test_more_threads_than_ports_take_turns(guest):
    results = [None] * 12

    def work(index):
        results[index] = guest.run(f"echo {index}").stdout

    threads = [threading.Thread(target=work, args=(index,)) for index in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [f"{index}\n" for index in range(12)]


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 5_000_000])
def test_a_file_survives_the_way_there_and_back(guest, size):
    data = os.urandom(size)
    guest.channel.push(data, "/tmp/a file's name", deadline=soon(), mode=0o750)
    assert guest.out("stat -c '%a %s' \"/tmp/a file's name\"") == f"750 {size}"
    assert guest.channel.pull("/tmp/a file's name", deadline=soon()) == data


def test_files_of_proc_have_a_content_though_they_say_they_are_empty(guest):
    assert guest.channel.pull("/proc/version", deadline=soon()).startswith(b"Linux version")


@pytest.mark.parametrize("path", ["/no/such", "/tmp"])
def test_what_cannot_be_pulled_says_so(guest, path):
    with pytest.raises(GuestCommandError) as caught:
        guest.channel.pull(path, deadline=soon())
    assert path in caught.value.result.stderr


@pytest.mark.parametrize("path", ["/no/such/file", "/tmp", "/proc/file"])
@pytest.mark.parametrize("size", [0, 200_000])
def test_what_cannot_be_pushed_says_so_and_the_port_stays_usable(guest, path, size):
    with pytest.raises(GuestCommandError) as caught:
        guest.channel.push(bytes(size), path, deadline=soon())
    assert path in caught.value.result.stderr
    assert guest.run("echo fine").stdout == "fine\n"


def test_a_push_that_does_not_fit_leaves_nothing_and_the_port_usable(guest):
    guest.run("mkdir -p /tmp/small; mount -t tmpfs -o size=256k small /tmp/small")
    try:
        with pytest.raises(GuestCommandError) as caught:
            guest.channel.push(bytes(3_000_000), "/tmp/small/file", deadline=soon())
        assert "space" in caught.value.result.stderr
        assert guest.out("ls -A /tmp/small") == ""
    finally:
        guest.run("umount /tmp/small")


@pytest.mark.parametrize("act", ["input", "push"])
def test_what_fills_the_agents_own_file_system_is_told_and_leaves_it_usable(guest, act):
    guest.run("mount -o remount,size=2M /run")
    try:
        if act == "input":
            result = guest.run("cat >/dev/null", input=bytes(5_000_000))
            assert result.returncode == 125
            assert "does not fit" in result.stderr
        else:
            with pytest.raises(GuestCommandError) as caught:
                guest.channel.push(bytes(5_000_000), "/run/too+ 3 records in", deadline=soon())
            assert "space" in caught.value.result.stderr
        assert guest.run("echo fine; ls /run | grep -c too").stdout == "fine\n0\n"
    finally:
        guest.run("mount -o remount,size=60% /run")


@pytest.mark.parametrize("path", ["-n", "-rf x", "--help"])
def test_a_path_is_never_taken_for_an_option(guest, path):
    guest.channel.push(b"data", path, deadline=soon())
    assert guest.channel.pull(path, deadline=soon()) == b"data"
    assert guest.run("pwd", cwd="-").returncode == 126
    guest.run(f"rm -f /root/'{path}'")


def test_a_push_replaces_a_file_in_one_step(guest):
    guest.channel.push(b"old", "/tmp/replaced", deadline=soon())
    number = guest.out("exec 5</tmp/replaced; (usleep 300000; cat <&5) >/tmp/seen & echo $!")
    guest.channel.push(b"new", "/tmp/replaced", deadline=soon())
    guest.run(f"while kill -0 {number}; do usleep 20000; done")
    assert guest.out("cat /tmp/seen /tmp/replaced") == "oldnew"


def test_a_great_output_arrives_whole(guest):
    result = guest.run("dd if=/dev/zero bs=1M count=60", seconds=60)
    assert len(result.stdout_bytes) == 60 << 20
    assert not result.stdout_bytes.strip(b"\0")
    assert guest.run("ls -A /run/qemuvm/agent.0").ok


def test_waiting_returns_what_the_successful_run_said(guest):
    guest.run("rm -f /tmp/turns")
    command = 'echo x >>/tmp/turns; echo "turn $(wc -l </tmp/turns)"; [ $(wc -l </tmp/turns) = 3 ]'
    assert waits.until_succeeds(guest.channel, command, soon(), interval=0.02).stdout == "turn 3\n"


def test_the_result_of_waiting_is_that_of_the_command(guest):
    assert waits.until_succeeds(guest.channel, "echo so", soon()).command == "echo so"


def test_a_wait_that_could_not_even_begin_still_says_what_for():
    class Busy:
        def run(self, command, *, deadline):
            raise WaitTimeout("no port became free", waited_for=command, seconds=deadline.seconds)

    with pytest.raises(WaitTimeout) as caught:
        waits.for_file(Busy(), "/tmp", soon(0.4))
    assert (caught.value.waited_for, caught.value.seconds) == ("the file /tmp", 0.4)
    assert "no port became free" in str(caught.value)
    assert "uptime" not in str(caught.value)


def test_waiting_in_vain_tells_the_last_output(guest):
    with pytest.raises(WaitTimeout) as caught:
        waits.until_succeeds(guest.channel, "echo not yet; exit 3", soon(0.7))
    assert caught.value.waited_for == "echo not yet; exit 3"
    assert caught.value.seconds == 0.7
    assert "not yet" in str(caught.value)


def test_waiting_for_a_command_that_hangs_ends_too(guest):
    with pytest.raises(WaitTimeout):
        waits.until_succeeds(guest.channel, "sleep 60", soon(0.7))
    assert guest.run("true").ok


def test_waiting_for_a_file(guest):
    guest.run("rm -f /tmp/'late file'; (usleep 200000; touch /tmp/'late file') >/dev/null 2>&1 &")
    waits.for_file(guest.channel, "/tmp/late file", soon())
    with pytest.raises(WaitTimeout):
        waits.for_file(guest.channel, "/tmp/never", soon(0.5))


def test_waiting_for_a_port(guest):
    guest.run("(usleep 200000; exec nc -l -p 8099) >/dev/null 2>&1 &")
    waits.for_port(guest.channel, 8099, soon())
    with pytest.raises(WaitTimeout):
        waits.for_port(guest.channel, 8098, soon(0.5))
