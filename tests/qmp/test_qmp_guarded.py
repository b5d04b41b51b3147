"""A test's own machine behind the door: blocked, checked, noted; and the harness's helpers unhindered."""

import asyncio
import logging
import os
import signal
import socket
import threading

import pytest

from pytest_qemuvm import CdromSpec, DiskSpec, RngSpec
from pytest_qemuvm.errors import (
    CommandBlocked,
    CommandError,
    InvalidArguments,
    InvalidCommandName,
    QemuVMWarning,
    QmpDisconnected,
    QmpTimeout,
    UnknownCommand,
    WaitTimeout,
)
from pytest_qemuvm.qmp.audit import KEYS

pytestmark = pytest.mark.qemuvm(template="bare")
LOGGER = "pytest_qemuvm.qmp"


@pytest.fixture
def noted(vm, qemuvm):
    """Return what has been noted of a VM since the test began: command and outcome of each line."""
    begin = len(qemuvm.audited(vm.name))
    return lambda: [(line["command"], line["outcome"]) for line in qemuvm.audited(vm.name)[begin:]]


def sent(vm):
    return [line for line in vm.transcript() if line.startswith("->")]


# Blocked


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("human-monitor-command", {"command-line": "info status"}),
        ("inject-nmi", None),
        ("screendump", {"filename": "/tmp/x.ppm"}),
        ("pmemsave", {"val": 0, "size": 16, "filename": "../../x"}),
        ("migrate", {"uri": "exec:cat >/dev/null"}),
        ("netdev_add", {"type": "tap", "id": "n"}),
        ("blockdev-add", {"driver": "file", "node-name": "n", "filename": "/etc/passwd", "read-only": True}),
        ("transaction", {"actions": [{"type": "drive-backup", "data": {"target": "/etc/x"}}]}),
    ],
)
def test_a_blocked_command_is_not_sent(vm, noted, caplog, command, arguments):
    before = sent(vm)
    with pytest.raises(CommandBlocked):
        vm.qmp.execute(command, arguments)
    with pytest.raises(CommandBlocked):
        asyncio.run(vm.qmp.aio.execute(command, arguments))
    assert sent(vm) == before
    assert noted() == [(command, "blocked")] * 2
    assert [record.levelno for record in caplog.records if record.name == LOGGER] == [logging.WARNING] * 2


def test_a_call_can_be_permitted(vm, tmp_path):
    said = vm.qmp.execute("human-monitor-command", {"command-line": "info status"}, allow_dangerous=True)
    assert "running" in said
    shot = tmp_path / "shot.ppm"
    vm.qmp.execute("screendump", {"filename": str(shot)}, allow_dangerous=True)
    assert shot.stat().st_size > 0
    with pytest.raises(CommandBlocked):
        vm.qmp.execute("screendump", {"filename": str(shot)})


@pytest.mark.qemuvm_allow("human-monitor-command", "pmemsave")
def test_a_mark_permits_by_command(vm, tmp_path):
    assert "running" in vm.qmp.execute("human-monitor-command", {"command-line": "info status"})
    vm.qmp.execute("pmemsave", {"val": 0, "size": 16, "filename": str(tmp_path / "memory")})
    with pytest.raises(CommandBlocked):
        vm.qmp.execute("memsave", {"val": 0, "size": 16, "filename": str(tmp_path / "memory")})


@pytest.mark.parametrize("variable", ["QEMUVM_ALLOW", "QEMUVM_ALLOW_DANGEROUS"])
def test_no_variable_permits_anything(vm, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    with pytest.raises(CommandBlocked):
        vm.qmp.execute("inject-nmi")


# Not in the way


def test_its_own_directory_and_its_disks_are_free(vm, disk_factory):
    vm.qmp.execute("screendump", {"filename": "shot.ppm"})
    assert (vm.run_dir / "shot.ppm").stat().st_size > 0
    disk = disk_factory(format="raw")
    for _ in range(2):
        vm.qmp.execute("blockdev-add", {"driver": "file", "node-name": "n", "filename": str(disk.path)})
        vm.qmp.execute("blockdev-del", {"node-name": "n"})


def test_another_machines_disk_is_not_free(vm_factory, disk_factory):
    one, other, disk = vm_factory(), vm_factory(), disk_factory()
    one.attach(disk)
    node = {"driver": "file", "node-name": "n", "filename": str(disk.path), "read-only": True}
    with pytest.raises(CommandBlocked):
        other.qmp.execute("blockdev-add", node)
    with pytest.raises(CommandBlocked):
        other.qmp.execute("screendump", {"filename": str(one.run_dir / "x.ppm")})


def test_block_jobs_and_snapshots(vm):
    def job(command, **arguments):
        with vm.qmp.expect_event("JOB_STATUS_CHANGE", lambda data: data["status"] == "concluded"):
            vm.qmp.execute(command, {"job-id": "j", **arguments})

    size = 1 << 20
    disk = vm.hotplug(DiskSpec(size))
    for name in ("snapshot", "copy"):
        job("blockdev-create", options={"driver": "file", "filename": f"{name}.qcow2", "size": 0})
        vm.qmp.execute("job-dismiss", {"id": "j"})
        file = {"driver": "file", "filename": f"{name}.qcow2", "node-name": f"{name}-file"}
        vm.qmp.execute("blockdev-add", file)
        job("blockdev-create", options={"driver": "qcow2", "file": f"{name}-file", "size": size})
        vm.qmp.execute("job-dismiss", {"id": "j"})
        node = {"driver": "qcow2", "file": f"{name}-file", "node-name": name}
        vm.qmp.execute("blockdev-add", {**node, "backing": None} if name == "snapshot" else node)
    action = {"type": "blockdev-snapshot", "data": {"node": f"{disk.id}-fmt", "overlay": "snapshot"}}
    vm.qmp.execute("transaction", {"actions": [action]})
    job("blockdev-backup", device="snapshot", target="copy", sync="full")
    job("block-stream", device="snapshot", **{"base-node": f"{disk.id}-fmt"})
    with vm.qmp.expect_event("BLOCK_JOB_READY"):
        vm.qmp.execute("block-commit", {"job-id": "j", "device": "snapshot"})
    with vm.qmp.expect_event("JOB_STATUS_CHANGE", {"status": "null"}):
        vm.qmp.execute("job-complete", {"id": "j"})
    for name in ("snapshot", "snapshot-file", "copy", "copy-file"):
        vm.qmp.execute("blockdev-del", {"node-name": name})


def test_migration_between_two_of_its_own_machines(vm_factory, qemuvm):
    target = vm_factory(args=("-incoming", "defer"))
    source = vm_factory()
    uri = f"unix:{source.run_dir.parent / 'migration'}"
    target.qmp.execute("migrate-incoming", {"uri": uri})
    source.qmp.execute("migrate", {"uri": uri})
    target.qmp.wait_event("RESUME")
    assert target.qmp.execute("query-status")["status"] == "running"
    assert source.qmp.execute("query-migrate")["status"] == "completed"
    (source.run_dir.parent / "migration").unlink(missing_ok=True)


def test_what_the_user_names_to_the_helpers_is_theirs(vm, tmp_path, caplog):
    caplog.set_level(logging.INFO, LOGGER)
    medium = tmp_path / "medium.iso"
    medium.write_bytes(bytes(1 << 20))
    drive = vm.hotplug(CdromSpec(medium))
    drive.eject()
    drive.change_medium(medium)
    with vm.hotplug(DiskSpec(path=medium, format="raw", read_only=True)), vm.hotplug(RngSpec()):
        vm.screenshot(tmp_path / "shot.png")
    vm.send_keys("a")
    vm.reset()
    vm.restart()
    assert [record.getMessage() for record in caplog.records if record.name == LOGGER] == []


# Checked


def test_what_the_running_qemu_does_not_know_is_not_sent(vm, noted):
    before = sent(vm)
    with pytest.raises(UnknownCommand) as unknown:
        vm.qmp.execute("query-statu")
    assert "query-status" in unknown.value.suggestions
    with pytest.raises(InvalidArguments) as wrong:
        asyncio.run(vm.qmp.aio.execute("device_del", {"idd": "x"}))
    assert wrong.value.path == "arguments.idd"
    with pytest.raises(InvalidCommandName):
        vm.qmp.execute("quit\n")
    with pytest.raises(InvalidArguments):
        vm.qmp.execute("device_del", {"id": object()})
    assert sent(vm) == before
    told = [
        ("query-statu", "invalid"),
        ("device_del", "invalid"),
        ("quit\n", "invalid"),
        ("device_del", "invalid"),
    ]
    assert [pair for pair in noted() if pair[0] != "query-qmp-schema"] == told


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        ({"driver": "usb-kbd", "id": "x", "dispaly": "y"}, "arguments.dispaly"),
        ({"driver": "virtio-rng-pci", "id": "x", "max-bytes": 1.5}, "arguments.max-bytes"),
        ({"driver": "virtio-rng-pci", "id": "x", "ats": 1}, "arguments.ats"),
    ],
)
def test_the_properties_of_a_device_are_checked(vm, arguments, path):
    with pytest.raises(InvalidArguments) as caught:
        vm.qmp.execute("device_add", arguments)
    assert caught.value.path == path
    assert caught.value.hint is None or "did you mean" in caught.value.hint


@pytest.mark.parametrize("face", ["sync", "aio"])
def test_a_device_that_qemu_does_not_have_is_not_sent(vm, noted, face):
    before, arguments = sent(vm), {"driver": "virtio-rng-pcy", "id": "x"}
    with pytest.raises(InvalidArguments) as caught:
        _ = (
            vm.qmp.execute("device_add", arguments)
            if face == "sync"
            else asyncio.run(vm.qmp.aio.execute("device_add", arguments))
        )
    assert caught.value.path == "arguments.driver"
    assert "'virtio-rng-pci'" in caught.value.hint
    assert sent(vm) == before
    assert noted()[-1] == ("device_add", "invalid")


@pytest.mark.parametrize("driver", ["virtio-blk", "cfi.pflash01", "sd-card"])
def test_a_device_under_another_name_or_not_for_users_is_qemus_to_judge(vm, driver):
    with pytest.raises(CommandError):
        vm.qmp.execute("device_add", {"driver": driver, "id": "x"})


def test_a_device_is_asked_about_once_by_all_machines(vm_factory, qemuvm):
    begin = len(qemuvm.audited())
    for vm in [vm_factory() for _ in range(2)]:
        for _ in range(2):
            with pytest.raises(InvalidArguments):
                vm.qmp.execute("device_add", {"driver": "usb-tablet", "id": "x", "dispaly": "y"})
    asked = [line for line in qemuvm.audited()[begin:] if line["command"] == "device-list-properties"]
    assert len(asked) <= 1


def test_a_device_with_good_properties_is_added(vm):
    vm.qmp.execute("device_add", {"driver": "usb-kbd", "id": "x", "bus": "usb.0", "serial": "5"})
    with vm.qmp.expect_event("DEVICE_DELETED", {"device": "x"}):
        vm.qmp.execute("device_del", {"id": "x"})


def test_the_schema_is_asked_for_once_by_all_machines(vm_factory, qemuvm, in_thread, tmp_path):
    from pytest_qemuvm.qmp.schemas import SchemaSource

    fresh = SchemaSource(tmp_path, "fresh")
    machines = [vm_factory() for _ in range(2)]
    begin = len(qemuvm.audited())
    for vm in machines:
        vm.qmp._session.warden.schemas = fresh
    assert all(call.result(60) for call in [in_thread(vm.qmp.execute, "query-name") for vm in machines * 3])
    asked = [line for line in qemuvm.audited()[begin:] if line["command"] == "query-qmp-schema"]
    assert len(asked) == 1
    # And never again, by whoever comes later.
    assert SchemaSource(tmp_path, "fresh").load()


def test_a_start_does_not_ask_for_it(vm_factory, qemuvm):
    vm = vm_factory()
    assert "query-qmp-schema" not in {line["command"] for line in qemuvm.audited(vm.name)}


def test_before_a_refusal_not_even_the_schema_is_asked_for(vm, tmp_path, noted):
    from pytest_qemuvm.qmp.schemas import SchemaSource

    vm.qmp._session.warden.schemas = SchemaSource(tmp_path, "fresh")
    with pytest.raises(InvalidCommandName):
        vm.qmp.execute("Quit")
    with pytest.raises(CommandBlocked):
        vm.qmp.execute("inject-nmi")
    assert noted() == [("Quit", "invalid"), ("inject-nmi", "blocked")]


def test_a_coroutine_fetches_the_schema_too(vm, tmp_path, noted):
    from pytest_qemuvm.qmp.schemas import SchemaSource

    vm.qmp._session.warden.schemas = SchemaSource(tmp_path, "fresh")
    with pytest.raises(UnknownCommand):
        asyncio.run(vm.qmp.aio.execute("query-statu"))
    assert noted() == [("query-qmp-schema", "ok"), ("query-statu", "invalid")]


def test_what_is_deprecated_is_a_warning_at_the_tests_line(vm):
    with pytest.warns(QemuVMWarning, match="deprecated") as caught, pytest.raises(CommandError):
        vm.qmp.execute("blockdev-open-tray", {"device": "nobody"})
    assert caught[0].filename == __file__
    vm.qmp.execute("x-query-usb")  # its name says that it is unstable


def test_in_strict_mode_what_is_deprecated_is_refused(vm):
    vm.qmp._session.warden.strict = True
    with pytest.raises(InvalidArguments) as caught:
        vm.qmp.execute("blockdev-open-tray", {"device": "nobody"})
    assert caught.value.path == "arguments.device"


# Noted


def test_what_is_noted_of_a_call(vm, qemuvm, request):
    begin = len(qemuvm.audited())
    vm.qmp.execute("qom-list", {"path": "/machine"})
    line = qemuvm.audited()[begin:][-1]
    assert tuple(line) == KEYS
    assert (line["vm"], line["command"], line["arguments"]) == (vm.name, "qom-list", ["path"])
    assert (line["class"], line["transport"], line["outcome"]) == ("safe", "owner", "ok")
    assert line["nodeid"] == request.node.nodeid
    assert line["timestamp"].endswith("+00:00")
    assert line["duration"] > 0
    assert vm.qmp.audit_path == qemuvm.root / "audit@.jsonl"


def test_every_outcome_is_noted(vm, noted, in_thread):
    vm.qmp.execute("query-name")
    with pytest.raises(CommandError):
        vm.qmp.execute("device_del", {"id": "nobody"})
    with pytest.raises(CommandBlocked):
        vm.qmp.execute("inject-nmi")
    with pytest.raises(UnknownCommand):
        vm.qmp.execute("query-statu")
    os.kill(vm.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, vm.pid, os.WSTOPPED | os.WNOWAIT)
    with pytest.raises(QmpTimeout):
        vm.qmp.execute("query-version", timeout=0.05)
    with pytest.raises(QmpTimeout):
        asyncio.run(vm.qmp.aio.execute("query-target", timeout=0.05))
    os.kill(vm.pid, signal.SIGCONT)
    qmp = vm.qmp
    vm.qmp.execute("quit")
    vm.wait_stopped()
    with pytest.raises(QmpDisconnected):
        qmp.execute("query-kvm")
    found = [pair for pair in noted() if pair[0] != "query-qmp-schema"]
    assert found == [
        ("query-name", "ok"),
        ("device_del", "error"),
        ("inject-nmi", "blocked"),
        ("query-statu", "invalid"),
        ("query-version", "timeout"),
        ("query-target", "timeout"),
        ("quit", "ok"),
        ("query-kvm", "disconnected"),
    ]


def test_the_helpers_are_noted_as_well(vm, noted):
    vm.send_keys("a")
    vm.screenshot(vm.run_dir / "x.png")
    with vm.hotplug(RngSpec()):
        pass
    commands = {command for command, _ in noted()}
    assert commands >= {"send-key", "screendump", "object-add", "device_add", "device_del", "object-del"}


@pytest.mark.qemuvm(balloon=True)
def test_typing_and_the_balloon_are_noted_as_well(vm, noted):
    vm.type_text("ab")
    assert [command for command, _ in noted()].count("send-key") == 2
    with pytest.raises(WaitTimeout):  # there is no guest to follow
        vm.balloon("64M", timeout=0.05)
    assert ("balloon", "ok") in noted()


def test_the_helpers_take_what_the_tests_own_calls_do_not(vm, tmp_path, caplog):
    """Blocked for the test's own call, done by the helper that was given the path, and noted either way."""
    with pytest.raises(CommandBlocked):
        vm.qmp.execute("screendump", {"filename": str(tmp_path / "x.ppm")})
    assert vm.screenshot(tmp_path / "x.png").exists()


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("object-add", {"qom-type": "secret", "id": "s", "data": "hush-hush"}),
        ("set_password", {"protocol": "vnc", "password": "hush-hush"}),
        ("change-vnc-password", {"password": "hush-hush"}),
    ],
)
@pytest.mark.qemuvm_expect("leaked_object")
def test_a_secret_is_in_no_record(vm, coherence, command, arguments, caplog):
    caplog.set_level(logging.DEBUG, LOGGER)
    said = ""
    try:
        vm.qmp.execute(command, arguments)
    except (CommandError, UnknownCommand) as error:
        said = f"{error}"
    if command != "object-add":
        vm.qmp.execute("object-add", {"qom-type": "iothread", "id": "s"})
    everything = said + "\n".join(vm.transcript()) + vm.qmp.audit_path.read_text() + caplog.text
    assert command in everything
    assert "hush-hush" not in everything


def test_threads_get_one_sequence(vm, qemuvm, in_thread):
    barrier = threading.Barrier(4)

    def many():
        barrier.wait()
        for _ in range(50):
            vm.qmp.execute("query-name")

    for call in [in_thread(many) for _ in range(4)]:
        call.result(60)
    lines = qemuvm.audited()
    assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
    assert sum(line["command"] == "query-name" for line in lines) >= 200


def test_the_audit_is_no_finding(vm, coherence):
    vm.qmp.execute("query-name")
    assert vm.qmp.audit_path.exists()
    assert coherence.check() == []


# Logged


@pytest.mark.parametrize(
    "command", ["device_del", "blockdev-del", "netdev_del", "object-del", "chardev-remove"]
)
def test_what_removes_something_is_a_warning_in_the_log(vm, caplog, command):
    key = "node-name" if command == "blockdev-del" else "id"
    with pytest.raises(CommandError):
        vm.qmp.execute(command, {key: "nobody"})
    assert [(record.levelno, record.name) for record in caplog.records] == [(logging.WARNING, LOGGER)]
    assert command in caplog.text


@pytest.mark.parametrize("command", ["system_reset", "system_powerdown", "quit"])
def test_what_ends_or_resets_the_machine_is_a_warning_in_the_log(vm, caplog, command):
    vm.qmp.execute(command)
    assert [record.levelno for record in caplog.records if command in record.getMessage()] == [
        logging.WARNING
    ]


def test_a_memory_dump_is_told_of(vm, caplog):
    caplog.set_level(logging.INFO, LOGGER)
    vm.qmp.execute("pmemsave", {"val": 0, "size": 16, "filename": "memory"})
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert "memory dump" in record.getMessage()
    vm.qmp.execute("query-name")
    vm.qmp.execute("stop")
    assert len(caplog.records) == 1


# Over a socket of somebody's own


def test_a_client_of_ones_own_has_the_policy_and_no_schema(vm_factory, tmp_path):
    from pytest_qemuvm.qmp import Client

    path = tmp_path / "m"
    chardev = f"socket,id=second,path={path},server=on,wait=off"
    vm_factory(args=("-chardev", chardev, "-mon", "chardev=second,mode=control"))
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(path))
    with Client.from_socket(sock) as client:
        assert client.audit_path is None
        with pytest.raises(CommandBlocked):
            client.execute("inject-nmi")
        with pytest.raises(CommandBlocked):
            client.execute("screendump", {"filename": "x"})
        with pytest.raises(CommandError):
            client.execute("query-statu")
        assert client.execute("query-name")
