"""A VM with the built-in guest: what a test does in it, and what a guest may do to a test."""

import os
import signal
import threading
import time

import psutil
import pytest

from pytest_qemuvm import DiskSpec, NicSpec, SerialSpec
from pytest_qemuvm.errors import (
    ChannelError,
    GuestBootError,
    GuestCommandError,
    GuestCommandTimeout,
    GuestUnavailable,
    HostFileError,
    NotRunning,
    QmpDisconnected,
    SpecError,
    VMStateError,
    WaitTimeout,
)


@pytest.fixture
def vm_spec():
    return {"template": "tiny"}


@pytest.fixture(scope="module")
def tiny(module_vm_factory):
    """One machine for the tests that leave it as it was."""
    return module_vm_factory("tiny", disks=[DiskSpec("64M", serial="data")], nics=[NicSpec(forward=8000)])


def in_thread(act):
    thread = threading.Thread(target=act)
    thread.start()
    return thread


def test_it_is_the_machine_of_that_name(tiny):
    assert tiny.run("hostname").stdout == "tiny\n"
    assert tiny.run(["echo", "two  words", "$HOME"]).stdout == "two  words $HOME\n"


def test_check_raises_with_the_result(tiny):
    with pytest.raises(GuestCommandError) as caught:
        tiny.run("echo out; echo err >&2; exit 4")
    result = caught.value.result
    assert (result.ok, result.returncode, result.stdout, result.stderr) == (False, 4, "out\n", "err\n")
    assert "err" in caught.value.details


def test_input_and_environment_and_directory(tiny):
    assert tiny.run("cat", input="täxt\n").stdout == "täxt\n"
    assert tiny.run("cat", input=b"\0\xff").stdout_bytes == b"\0\xff"
    assert tiny.run("echo $WHO; pwd", env={"WHO": "me & you"}, cwd="/proc").stdout == "me & you\n/proc\n"


def test_an_overrun_command_is_killed_and_others_go_on_meanwhile(tiny):
    results = []
    other = in_thread(lambda: results.append(tiny.run("sleep 1; echo other").stdout))
    with pytest.raises(GuestCommandTimeout) as caught:
        tiny.run("echo partly; sleep 300; echo never", timeout=0.7)
    assert caught.value.result.stdout == "partly\n"
    assert isinstance(caught.value, WaitTimeout)
    other.join()
    assert results == ["other\n"]
    assert tiny.run("ps | grep -c '[s]leep 300'", check=False).stdout == "0\n"


def test_many_threads_share_the_machine(tiny):
    results = {}
    threads = [
        in_thread(lambda n=n: results.update({n: tiny.run(f"echo {n}; sleep 0.05").stdout}))
        for n in range(12)
    ]
    for thread in threads:
        thread.join()
    assert results == {n: f"{n}\n" for n in range(12)}


def test_files_go_both_ways(tiny, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(bytes(range(256)) * 5000)
    source.chmod(0o751)
    tiny.push(source, "/tmp/pushed")
    assert tiny.run("stat -c %a /tmp/pushed").stdout == "751\n"
    target = tiny.pull("/tmp/pushed", tmp_path)
    assert target == tmp_path / "pushed"
    assert target.read_bytes() == source.read_bytes()
    tiny.write_text("/tmp/text", "zeile\nlinje\n", mode=0o600)
    assert tiny.read_text("/tmp/text") == "zeile\nlinje\n"


def test_a_pull_that_fails_leaves_no_file(tiny, tmp_path):
    with pytest.raises(GuestCommandError):
        tiny.pull("/nonexistent", tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []


def test_a_pull_that_fails_keeps_what_was_there(tiny, tmp_path):
    target = tmp_path / "copy"
    target.write_text("before")
    with pytest.raises(GuestCommandError):
        tiny.pull("/nonexistent", target)
    assert target.read_text() == "before"
    assert list(tmp_path.iterdir()) == [target]


def test_files_of_the_host_that_cannot_be_had_are_typed_errors(tiny, tmp_path):
    for source in (tmp_path / "none", tmp_path, "a\0b", 5):
        with pytest.raises(HostFileError):
            tiny.push(source, "/tmp/x")
    with pytest.raises(HostFileError):
        tiny.pull("/etc/passwd", tmp_path / "none" / "copy")
    assert issubclass(HostFileError, OSError)


def test_a_file_that_is_no_text_is_read_without_loss(tiny):
    tiny.run("printf 'a\\377b' >/tmp/bytes")
    text = tiny.read_text("/tmp/bytes")
    tiny.write_text("/tmp/again", text)
    assert tiny.run("cmp /tmp/bytes /tmp/again").ok


@pytest.mark.parametrize(
    "ask",
    [
        lambda vm: vm.run([]),
        lambda vm: vm.run(["echo", 1]),
        lambda vm: vm.run(None),
        lambda vm: vm.run(b"echo"),
        lambda vm: vm.run("echo \ud800"),
        lambda vm: vm.run("cat", input=5),
        lambda vm: vm.run("cat", input="\ud800"),
        lambda vm: vm.run("true", env={5: "x"}),
        lambda vm: vm.run("true", cwd=5),
        lambda vm: vm.run("true", timeout="5"),
        lambda vm: vm.write_text("/tmp/x", 5),
        lambda vm: vm.write_text("", "x"),
        lambda vm: vm.write_text("/tmp/x", "x", mode=-1),
        lambda vm: vm.read_text(5),
        lambda vm: vm.wait_for_file(5),
        lambda vm: vm.wait_for_port("22"),
        lambda vm: vm.wait_for_unit(5),
        lambda vm: vm.wait_until_succeeds(["true"]),
        lambda vm: vm.console.send(5),
        lambda vm: vm.console.send("\ud800"),
    ],
)
def test_what_makes_no_sense_is_refused_before_it_is_sent(tiny, ask):
    with pytest.raises(SpecError):
        ask(tiny)


def test_a_disk_is_found_by_its_serial(tiny):
    assert tiny.run("lsblk -dno SIZE /dev/disk/by-id/*data").stdout.strip() == "64M"


def test_waits_say_what_they_waited_for(tiny):
    with pytest.raises(WaitTimeout) as caught:
        tiny.wait_for_file("/tmp/never", timeout=0.5)
    assert "/tmp/never" in caught.value.waited_for
    assert caught.value.seconds == 0.5
    with pytest.raises(WaitTimeout) as caught:
        tiny.wait_until_succeeds("echo last words; false", timeout=0.5)
    assert "last words" in str(caught.value)


def test_a_port_is_waited_for_and_reached(tiny):
    import socket

    tiny.run("nc -ll -p 8000 -e echo served >/dev/null 2>&1 &")
    tiny.wait_for_port(8000)
    tiny.wait_until_succeeds("ip address show eth0 | grep 10.0.2.15")
    with socket.create_connection(("127.0.0.1", tiny.port(8000)), timeout=30) as connection:
        assert connection.makefile().readline() == "served\n"


def test_the_console_is_a_conversation(tiny):
    tiny.console.send("echo first-$((1 + 1))")
    tiny.console.expect("^first-2$")
    tiny.console.send("echo second-$((2 + 2))")
    assert tiny.console.expect(r"second-(\d)$")[1] == "4"
    with pytest.raises(WaitTimeout) as caught:
        tiny.console.expect("first-2", timeout=0.1)
    assert "second-4" in caught.value.details


def test_the_screen_and_the_keyboard(tiny, tmp_path):
    tiny.wait_until_succeeds("ps | grep -q '[t]ty1'")
    tiny.type_text("echo 'It works: {~} 50%' >/tmp/typed\n")
    tiny.wait_for_file("/tmp/typed")
    assert tiny.read_text("/tmp/typed") == "It works: {~} 50%\n"
    long = "".join(chr(ord("a") + number % 26) for number in range(120))
    for seconds in (5, 10, 60):
        tiny.type_text(f"echo {long} >/tmp/long\n")
        try:
            tiny.wait_until_succeeds(f"grep {long} /tmp/long", seconds)
        except WaitTimeout:
            # A guest that does not get to run for a while loses keys, as it would with a real keyboard.
            assert seconds < 60
            tiny.send_keys("ctrl-c")
        else:
            break
    tiny.send_keys("ctrl-l", "ret")
    picture = tiny.screenshot(tmp_path / "screen.png")
    assert picture == tmp_path / "screen.png"
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with pytest.raises(SpecError):
        tiny.send_keys("no_such_key")
    with pytest.raises(SpecError):
        tiny.type_text("ж")
    with pytest.raises(SpecError):
        tiny.screenshot(tmp_path / "nowhere" / "screen.png")


def test_a_paused_machine_does_not_answer_and_goes_on_after(tiny):
    tiny.pause()
    with pytest.raises(WaitTimeout):
        tiny.run("true", timeout=0.3)
    tiny.resume()
    assert tiny.run("echo back").stdout == "back\n"


def test_a_serial_port_of_its_own_is_there(vm_factory):
    vm = vm_factory(serials=[SerialSpec("metrics")])
    vm.wait_for_file("/dev/virtio-ports/metrics")


def test_the_balloon_and_other_buses(vm_factory):
    vm = vm_factory(
        balloon=True, disks=[DiskSpec("16M", bus=bus, serial=bus) for bus in ("scsi", "nvme", "usb")]
    )
    assert vm.qmp.execute("query-balloon")["actual"] == vm.spec.bytes
    for bus in ("scsi", "nvme", "usb"):
        vm.wait_until_succeeds(f"ls /dev/disk/by-id/ | grep {bus}$")


def test_a_stop_is_the_guests_own_doing(vm_factory):
    vm = vm_factory()
    vm.stop()
    assert vm.stopped_by == "powerdown"
    assert vm.console.text is not None
    with pytest.raises(NotRunning):
        vm.run("true")


def test_a_paused_guest_cannot_power_down_and_is_not_asked(vm_factory):
    vm = vm_factory()
    vm.pause()
    vm.stop()
    assert vm.stopped_by == "quit"


def test_a_guest_that_stands_still_is_not_reset_and_waited_for(vm_factory):
    vm = vm_factory()
    vm.pause()
    with pytest.raises(VMStateError, match="paused"):
        vm.reset()
    vm.resume()
    assert vm.run("echo on").stdout == "on\n"


def test_a_guest_whose_qemu_does_not_answer_can_be_stopped(vm_factory, monkeypatch):
    from pytest_qemuvm.machine import ladder

    vm = vm_factory()
    monkeypatch.setitem(ladder.STEP_SECONDS, "quit", 0.2)
    os.kill(vm.pid, signal.SIGSTOP)
    vm.stop()
    assert vm.stopped_by == "term"


def test_a_console_that_is_full_is_not_written_to_for_ever(vm_factory):
    vm = vm_factory()
    flood = "x" * 8_000_000
    vm.pause()
    with pytest.raises(WaitTimeout):
        vm.console.send(flood, timeout=0.3)
    vm.resume()
    errors = []

    def type_on():
        with pytest.raises(VMStateError) as caught:
            vm.console.send(flood, timeout=300)
        errors.append(str(caught.value))

    typing = in_thread(type_on)
    with pytest.raises(VMStateError):
        vm.run("usleep 100000; echo c >/proc/sysrq-trigger")
    typing.join(30)
    assert "panicked" in errors[0]
    with pytest.raises(VMStateError, match="panicked"):
        vm.reset()


def test_a_reset_is_a_new_boot_of_the_same_process(vm_factory):
    vm = vm_factory()
    pid = vm.pid
    vm.write_text("/tmp/gone", "")
    vm.reset()
    assert vm.pid == pid
    assert not vm.run("test -e /tmp/gone", check=False).ok


def test_a_reboot_by_the_guest_ends_a_command_that_runs(vm_factory):
    vm = vm_factory()
    with pytest.raises(ChannelError):
        vm.run("reboot -f; sleep 300", timeout=200)
    assert vm.run("echo again").stdout == "again\n"


def test_a_guest_that_switches_itself_off_ends_every_wait_at_once(vm_factory):
    vm = vm_factory()
    errors = []

    def wait():
        try:
            vm.run("sleep 300", timeout=200)
        except NotRunning as error:
            errors.append(error)

    waiting = in_thread(wait)
    with pytest.raises(NotRunning):
        vm.run("sleep 0.2; poweroff -f; sleep 300", timeout=200)
    waiting.join()
    assert len(errors) == 1
    vm.wait_stopped()
    assert (vm.state, vm.record.state, vm.stopped_by) == ("stopped", "stopped", "powerdown")
    vm.start()
    assert vm.run("echo up").stdout == "up\n"


def test_a_panic_ends_every_wait_at_once_and_leaves_the_machine_to_be_looked_at(vm_factory):
    vm = vm_factory()
    # While the text console moves to the screen, it is locked, and the kernel cannot print its last words.
    vm.wait_for_file("/run/qemuvm/settled")
    with pytest.raises(VMStateError) as caught:
        vm.run("echo c >/proc/sysrq-trigger; sleep 300", timeout=200)
    assert "sysrq" in caught.value.details
    assert vm.state == "guest-panicked"
    with pytest.raises(VMStateError):
        vm.run("true")
    vm.restart()
    assert vm.run("echo up").stdout == "up\n"


@pytest.mark.qemuvm_expect("vm_state_mismatch")
def test_a_death_of_qemu_ends_every_wait_at_once(vm_factory):
    vm = vm_factory()
    process = psutil.Process(vm.pid)
    thread = in_thread(lambda: (vm.wait_for_file("/tmp/asleep"), process.kill()))
    with pytest.raises(QmpDisconnected) as caught:
        vm.run("touch /tmp/asleep; sleep 300", timeout=200)
    thread.join()
    assert caught.value.status == -9
    with pytest.raises(QmpDisconnected):
        vm.console.expect("never")


@pytest.mark.qemuvm(start="cold")
def test_a_guest_that_does_not_come_up_shows_its_console(vm_factory):
    with pytest.raises(GuestBootError) as caught:
        vm_factory("stuck", append="rdinit=/bin/sh", boot_timeout=8)
    error = caught.value
    assert isinstance(error, WaitTimeout)
    assert error.seconds == 8
    assert "agent" in error.waited_for
    assert "BusyBox" in error.console
    assert "BusyBox" in str(error)


@pytest.mark.qemuvm(start="cold")
def test_a_guest_that_switches_itself_off_while_it_boots(vm_factory):
    vm = vm_factory(start=False, append="rdinit=/bin/sh", boot_timeout=120)

    def switch_off():
        while vm.pid is None:
            time.sleep(0.01)
        vm.console.expect("# ")
        vm.console.send("poweroff -f")

    thread = in_thread(switch_off)
    with pytest.raises(GuestBootError) as caught:
        vm.start()
    thread.join()
    assert "switched itself off" in caught.value.brief
    assert vm.state == "stopped"
    assert vm.record.state == "stopped"


@pytest.mark.qemuvm(start="cold")
def test_a_guest_that_panics_while_it_boots_is_not_waited_for(vm_factory):
    with pytest.raises(GuestBootError) as caught:
        vm_factory(append="rdinit=/bin/false", boot_timeout=300)
    assert "Kernel panic" in caught.value.console


def test_a_kernel_that_is_none_is_a_typed_error_before_anything_starts(vm_factory, tmp_path):
    wrong = tmp_path / "vmlinuz"
    wrong.write_text("not a kernel")
    with pytest.raises(GuestUnavailable):
        vm_factory(kernel=wrong)
    with pytest.raises(SpecError):
        vm_factory(kernel=tmp_path / "nonexistent")


def test_too_little_memory_is_told_before_anything_starts(vm_factory):
    with pytest.raises(SpecError, match="memory"):
        vm_factory(memory="64M", start=False)


def test_machines_started_together_take_less_than_one_after_the_other(vm_factory):
    vms = [vm_factory(f"together{n}", start=False, memory="128M") for n in range(3)]
    threads = [in_thread(vm.start) for vm in vms]
    for thread in threads:
        thread.join()
    assert [vm.run("hostname").stdout for vm in vms] == [f"together{n}\n" for n in range(3)]
