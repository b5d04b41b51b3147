"""One contract for both ways to the monitor: the owner's connection, and the second monitor."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import threading

import pytest

from pytest_qemuvm.errors import (
    CommandBlocked,
    CommandError,
    InvalidArguments,
    InvalidCommandName,
    JobFailed,
    JobNotFound,
    QmpDisconnected,
    QmpTimeout,
    SpecError,
    UnknownCommand,
)
from pytest_qemuvm.qmp import connect

pytestmark = pytest.mark.qemuvm(template="bare")

MIB = 2**20
FORGIVEN = pytest.mark.qemuvm_expect
SEEN = pytest.mark.qemuvm(needs="guest")
"""What ends with a picture of the screen, which a simulator does not make up."""
IN_AND_OUT = pytest.mark.qemuvm(needs="real")
"""What comes of data that is really read and written, which a simulator does not do."""


@pytest.fixture(params=["owner", "second"])
def qmp(request, vm):
    """The monitor of a VM by either way."""
    if request.param == "owner":
        yield vm.qmp
    else:
        with connect(vm.name) as client:
            yield client


class TestCommandsAndEvents:
    def test_values_are_qemus_own(self, qmp, vm):
        assert qmp.execute("query-status") == vm.qmp.execute("query-status")
        assert qmp.execute("query-version") == qmp.greeting["version"]
        assert qmp.execute("system_reset") == {}

    def test_replies_longer_than_any_buffer(self, qmp):
        assert len(json.dumps(qmp.execute("query-qmp-schema"))) > 150_000

    def test_refusals_are_qemus_own(self, qmp):
        with pytest.raises(CommandError) as caught:
            qmp.execute("device_del", {"id": "nobody"})
        assert (caught.value.class_, caught.value.desc) == ("DeviceNotFound", "Device 'nobody' not found")

    def test_what_is_no_json_is_refused_before_it_is_sent(self, qmp):
        with pytest.raises(SpecError):
            qmp.execute("query-status", {"x": {1}})
        assert qmp.execute("query-status")["running"]

    def test_events_come_before_the_reply_that_follows_them(self, qmp):
        since = qmp.events.last
        for _ in range(20):
            qmp.execute("stop")
            assert qmp.events.since(since)[-1].name == "STOP"
            qmp.execute("cont")
            assert qmp.events.since(since)[-1].name == "RESUME"
        numbers = [event.seq for event in qmp.events.since(since)]
        assert numbers == list(range(since + 1, since + 41))

    def test_an_event_around_the_act_that_causes_it(self, qmp):
        with qmp.expect_event("RESET", {"guest": False}) as expected:
            qmp.execute("system_reset")
        assert expected.event.data["reason"] == "host-qmp-system-reset"

    def test_both_ways_see_what_either_does(self, qmp, vm, in_thread):
        waiting = in_thread(qmp.wait_event, "STOP", since=qmp.events.last)
        vm.qmp.execute("stop")
        assert waiting.result(30).name == "STOP"
        assert qmp.execute("query-status") == vm.qmp.execute("query-status")

    def test_a_time_out_leaves_it_usable(self, qmp, vm):
        os.kill(vm.pid, signal.SIGSTOP)
        try:
            with pytest.raises(QmpTimeout) as caught:
                qmp.execute("query-name", timeout=0.05)
        finally:
            os.kill(vm.pid, signal.SIGCONT)
        assert caught.value.seconds == 0.05
        assert qmp.execute("query-status")["running"]
        with pytest.raises(QmpTimeout):
            qmp.wait_event("NEVER", timeout=0.05)

    @FORGIVEN("vm_state_mismatch")
    @pytest.mark.parametrize("wait", ["wait_event", "execute", "job"])
    def test_qemus_death_ends_every_wait(self, qmp, vm, in_thread, wait):
        acts = {
            "wait_event": lambda: qmp.wait_event("NEVER", timeout=600),
            "execute": lambda: qmp.execute("query-status", timeout=600),
            "job": lambda: qmp.job("slow", timeout=600),
        }
        if wait == "job":
            start_backup(qmp, "slow", speed=1)
        pid = vm.pid
        waiting = in_thread(acts[wait])
        if wait == "execute":
            os.kill(pid, signal.SIGSTOP)
            waiting = in_thread(acts[wait])
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(QmpDisconnected):
            waiting.result(30)
        with pytest.raises(QmpDisconnected):
            qmp.execute("query-status")
        assert not qmp.connected

    def test_from_many_threads(self, qmp, in_thread):
        barrier = threading.Barrier(4)

        def ask(command, key):
            barrier.wait()
            return all(key in qmp.execute(command) for _ in range(50))

        pairs = [("query-status", "status"), ("query-version", "qemu")] * 2
        assert all(asked.result(60) for asked in [in_thread(ask, *pair) for pair in pairs])

    def test_in_a_running_loop(self, qmp):
        async def talk():
            assert qmp.execute("query-status")["running"]
            async with qmp.aio.expect_event("STOP") as expected:
                await qmp.aio.execute("stop")
            return expected.event.name, (await qmp.aio.execute("query-status"))["status"]

        assert asyncio.run(talk()) == ("STOP", "paused")


def add_null(qmp, name, size=64 * MIB, **more):
    node = {"driver": "null-co", "node-name": name, "size": size, **more}
    qmp.execute("blockdev-add", node)


def start_backup(qmp, job, **more):
    add_null(qmp, "from")
    add_null(qmp, "to")
    what = {"job-id": job, "device": "from", "target": "to", "sync": "full", **more}
    qmp.execute("blockdev-backup", what)


NULL = {"driver": "null-co", "node-name": "from", "size": 64 * MIB}
SCSI = {"driver": "scsi-hd", "id": "d", "drive": "from", "bus": "scsi.0"}
DISK = ("-blockdev", json.dumps(NULL), "-device", json.dumps(SCSI))


@FORGIVEN("leaked_block_node")
class TestJobs:
    def test_a_backup_runs_to_its_end_with_progress(self, qmp):
        start_backup(qmp, "copy", speed=16 * MIB)
        said = []
        job = qmp.job("copy", progress=said.append)
        assert (job.id, job.type, job.status, job.percent) == ("copy", "backup", "concluded", 100.0)
        assert said == sorted(said)
        assert said[-1] == 100.0
        assert any(0 < percent < 100 for percent in said)
        assert qmp.execute("query-jobs") == []

    def test_one_that_has_ended_and_gone_before_anybody_asked(self, qmp):
        with qmp.expect_event("JOB_STATUS_CHANGE", {"id": "copy", "status": "null"}):
            start_backup(qmp, "copy")
        assert qmp.execute("query-jobs") == []
        job = qmp.job("copy")
        assert (job.type, job.status, job.total) == ("backup", "concluded", 64 * MIB)

    def test_one_that_stays_is_dismissed(self, qmp):
        start_backup(qmp, "copy", **{"auto-dismiss": False})
        assert qmp.job("copy").status == "concluded"
        assert qmp.execute("query-jobs") == []

    def test_one_that_waits_to_be_finalized(self, qmp):
        start_backup(qmp, "copy", **{"auto-finalize": False})
        assert qmp.job("copy").status == "concluded"

    @IN_AND_OUT
    def test_one_that_fails(self, qmp):
        add_null(qmp, "from")
        add_null(qmp, "base")
        broken = {"driver": "blkdebug", "image": "base", "node-name": "to"}
        qmp.execute(
            "blockdev-add", {**broken, "inject-error": [{"event": "none", "iotype": "write", "errno": 5}]}
        )
        what = {"job-id": "copy", "device": "from", "target": "to", "sync": "full"}
        for more in ({}, {"auto-dismiss": False}):
            qmp.execute("blockdev-backup", {**what, **more})
            with pytest.raises(JobFailed) as caught:
                qmp.job("copy")
            assert (caught.value.job, caught.value.error) == ("copy", "Input/output error")
            assert (caught.value.cancelled, caught.value.stopped) == (False, False)
            assert qmp.execute("query-jobs") == []

    @IN_AND_OUT
    def test_one_that_stops_at_an_error_is_said_to_stand_still(self, qmp):
        add_null(qmp, "base")
        add_null(qmp, "to")
        broken = {"driver": "blkdebug", "image": "base", "node-name": "from"}
        once = {"event": "none", "iotype": "read", "errno": 28, "once": True}
        qmp.execute("blockdev-add", {**broken, "inject-error": [once]})
        what = {"job-id": "copy", "device": "from", "target": "to", "sync": "full"}
        qmp.execute("blockdev-backup", {**what, "on-source-error": "stop"})
        with pytest.raises(JobFailed) as caught:
            qmp.job("copy")
        assert (caught.value.error, caught.value.stopped) == ("nospace", True)
        qmp.execute("block-job-resume", {"device": "copy"})
        assert qmp.job("copy").status == "concluded"

    def test_one_that_somebody_cancels(self, qmp, in_thread):
        start_backup(qmp, "copy", speed=1)
        waiting = in_thread(qmp.job, "copy")
        qmp.execute("job-cancel", {"id": "copy"})
        with pytest.raises(JobFailed) as caught:
            waiting.result(30)
        assert caught.value.cancelled

    @pytest.mark.qemuvm(args=DISK)
    @pytest.mark.parametrize("when_ready", ["complete", "cancel", "leave"])
    def test_a_mirror_that_becomes_ready(self, qmp, when_ready):
        def behind_the_disk():
            (disk,) = [each for each in qmp.execute("query-block") if each.get("qdev") == "d"]
            return disk["inserted"]["node-name"]

        add_null(qmp, "to")
        qmp.execute("blockdev-mirror", {"job-id": "m", "device": "from", "target": "to", "sync": "full"})
        job = qmp.job("m", when_ready=when_ready)
        assert job.type == "mirror"
        if when_ready == "leave":
            assert (job.status, qmp.execute("query-jobs")[0]["status"]) == ("ready", "ready")
            assert qmp.job("m", when_ready="cancel").status == "concluded"
        assert qmp.execute("query-jobs") == []
        assert behind_the_disk() == ("to" if when_ready == "complete" else "from")

    def test_an_id_that_is_used_again(self, qmp):
        start_backup(qmp, "copy", speed=1)
        qmp.execute("job-cancel", {"id": "copy"})
        with pytest.raises(JobFailed):
            qmp.job("copy")
        what = {"job-id": "copy", "device": "from", "target": "to", "sync": "full"}
        qmp.execute("blockdev-backup", what)
        assert qmp.job("copy").status == "concluded"

    def test_one_that_takes_too_long_goes_on(self, qmp):
        start_backup(qmp, "copy", speed=1)
        with pytest.raises(QmpTimeout) as caught:
            qmp.job("copy", timeout=0.1)
        assert (caught.value.waited_for, caught.value.seconds) == ("the job copy", 0.1)
        with pytest.raises(QmpTimeout):
            qmp.job("copy", timeout=0.3, progress=lambda _: None)
        assert [job["status"] for job in qmp.execute("query-jobs")] == ["running"]
        qmp.execute("job-cancel", {"id": "copy"})
        with pytest.raises(JobFailed):
            qmp.job("copy")

    def test_one_that_nobody_started(self, qmp):
        start_backup(qmp, "copy", speed=1)
        with pytest.raises(JobNotFound) as caught:
            qmp.job("cpy")
        assert "'copy'" in caught.value.hint
        qmp.execute("job-cancel", {"id": "copy"})
        with pytest.raises(JobFailed):
            qmp.job("copy")
        with pytest.raises(SpecError):
            qmp.job("copy", when_ready="finish")

    def test_in_a_coroutine(self, qmp):
        start_backup(qmp, "copy", speed=64 * MIB)
        said = []
        job = asyncio.run(qmp.aio.job("copy", progress=said.append))
        assert (job.status, said[-1]) == ("concluded", 100.0)
        with pytest.raises(JobNotFound):
            asyncio.run(qmp.aio.job("another"))


class TestJudgement:
    """Whoever asks, the same is refused, with the same error, and the same is not in the way."""

    @pytest.mark.parametrize(
        ("command", "arguments"),
        [
            ("human-monitor-command", {"command-line": "info status"}),
            ("inject-nmi", None),
            ("screendump", {"filename": "/tmp/x.ppm"}),
            ("migrate", {"uri": "exec:cat >/dev/null"}),
            ("transaction", {"actions": [{"type": "drive-backup", "data": {"target": "/etc/x"}}]}),
        ],
    )
    def test_what_reaches_outside_is_blocked(self, qmp, vm, command, arguments, qemuvm):
        with pytest.raises(CommandBlocked):
            qmp.execute(command, arguments)
        with pytest.raises(CommandBlocked):
            asyncio.run(qmp.aio.execute(command, arguments))
        lines = qemuvm.audited(vm.name)[-2:]
        assert [(line["command"], line["outcome"]) for line in lines] == [(command, "blocked")] * 2

    @pytest.mark.parametrize(
        ("command", "arguments", "path"),
        [
            ("device_del", {"idd": "x"}, "arguments.idd"),
            ("device_del", {"id": 5}, "arguments.id"),
            ("device_add", {"driver": "usb-kbd", "dispaly": "y"}, "arguments.dispaly"),
            ("device_add", {"driver": "virtio-rng-pci", "max-bytes": 1.5}, "arguments.max-bytes"),
            ("device_add", {"driver": "usb-kdb"}, "arguments.driver"),
        ],
    )
    def test_what_qemu_would_not_take_is_not_sent(self, qmp, command, arguments, path):
        before = qmp.transcript()
        for face in (qmp.execute, lambda *call: asyncio.run(qmp.aio.execute(*call))):
            with pytest.raises(InvalidArguments) as caught:
                face(command, arguments)
            assert caught.value.path == path
        assert not [line for line in qmp.transcript()[len(before) :] if line.startswith("->")]

    @pytest.mark.parametrize("name", ["query-statu", "Quit", "quit\n", "a;b", ""])
    def test_what_is_no_command(self, qmp, name):
        with pytest.raises((UnknownCommand, InvalidCommandName)):
            qmp.execute(name)

    @SEEN
    def test_a_call_can_be_permitted(self, qmp, tmp_path):
        qmp.execute("screendump", {"filename": str(tmp_path / "x.ppm")}, allow_dangerous=True)
        assert (tmp_path / "x.ppm").exists()

    @SEEN
    @pytest.mark.qemuvm_allow("human-monitor-command", "screendump")
    def test_what_the_tests_mark_permits(self, qmp, tmp_path):
        assert "running" in qmp.execute("human-monitor-command", {"command-line": "info status"})
        qmp.execute("screendump", {"filename": str(tmp_path / "x.ppm")})
        with pytest.raises(CommandBlocked):
            qmp.execute("inject-nmi")

    @SEEN
    def test_its_own_directory_and_the_artefacts_are_free(self, qmp, vm, qemuvm, pytestconfig, request):
        qmp.execute("screendump", {"filename": "x.ppm"})
        assert (vm.run_dir / "x.ppm").exists()
        artifacts = pytestconfig.rootpath / qemuvm.settings.artifacts / request.node.name
        artifacts.mkdir(parents=True)
        try:
            qmp.execute("screendump", {"filename": str(artifacts / "x.ppm")})
        finally:
            shutil.rmtree(artifacts)

    def test_a_disk_that_nobody_has_is_free_and_another_machines_is_not(self, qmp, vm_factory, disk_factory):
        free, own, others = (disk_factory(format="raw") for _ in range(3))
        vm_factory("other").attach(others)

        def add(disk, name):
            qmp.execute("blockdev-add", {"driver": "file", "node-name": name, "filename": str(disk.path)})

        add(free, "free")
        qmp.execute("blockdev-del", {"node-name": "free"})
        add(own, "own")
        add(own, "again")
        with pytest.raises(CommandBlocked):
            add(others, "others")
        for name in ("own", "again"):
            qmp.execute("blockdev-del", {"node-name": name})

    def test_a_disk_that_it_was_given(self, qmp, vm, disk_factory):
        disk = disk_factory(format="raw")
        vm.attach(disk)
        node = {"driver": "file", "node-name": "n", "filename": str(disk.path), "read-only": True}
        with contextlib.suppress(CommandError):  # QEMU's own lock
            qmp.execute("blockdev-add", node)
            qmp.execute("blockdev-del", {"node-name": "n"})


class TestJobsOfFiles:
    def test_a_job_of_no_block_device(self, qmp, vm):
        path = vm.run_dir / "made.raw"
        qmp.execute(
            "blockdev-create",
            {"job-id": "c", "options": {"driver": "file", "filename": str(path), "size": MIB}},
        )
        assert qmp.job("c").type == "create"
        assert path.stat().st_size == MIB
        path.unlink()
        nowhere = {"driver": "file", "filename": str(path / "nowhere"), "size": MIB}
        qmp.execute("blockdev-create", {"job-id": "c", "options": nowhere})
        with pytest.raises(JobFailed) as caught:
            qmp.job("c")
        assert "nowhere" in caught.value.error
        assert qmp.execute("query-jobs") == []


class TestDescriptors:
    def test_qemu_opens_what_it_was_handed(self, qmp, tmp_path):
        path = tmp_path / "image"
        path.write_bytes(b"q" * MIB)
        with path.open("rb") as file:
            fdset = qmp.add_fd(file, opaque="an image")
        path.unlink()
        (known,) = qmp.execute("query-fdsets")
        assert (known["fdset-id"], known["fds"][0]["opaque"]) == (fdset, "an image")
        node = {"driver": "file", "node-name": "n", "filename": f"/dev/fdset/{fdset}", "read-only": True}
        qmp.execute("blockdev-add", node)
        (block,) = qmp.execute("query-named-block-nodes", {"flat": True})
        assert block["image"]["virtual-size"] == MIB
        qmp.execute("blockdev-del", {"node-name": "n"})
        qmp.execute("remove-fd", {"fdset-id": fdset})
        assert qmp.execute("query-fdsets") == []

    def test_the_end_of_a_pipe(self, qmp):
        """QEMU has the only descriptor left of its writing end: nobody here keeps a duplicate."""
        reading, writing = os.pipe()
        fdset = qmp.add_fd(writing)
        os.close(writing)
        os.set_blocking(reading, False)
        with pytest.raises(BlockingIOError):
            os.read(reading, 1)
        qmp.execute("remove-fd", {"fdset-id": fdset})
        os.set_blocking(reading, True)
        assert os.read(reading, 1) == b""
        os.close(reading)

    def test_two_in_one_set(self, qmp, tmp_path):
        path = tmp_path / "image"
        path.touch()
        with path.open("rb") as first, path.open("r+b") as second:
            fdset = qmp.add_fd(first.fileno(), fdset_id=5)
            assert qmp.add_fd(second, fdset_id=fdset) == fdset == 5
        assert len(qmp.execute("query-fdsets")[0]["fds"]) == 2
        qmp.execute("remove-fd", {"fdset-id": 5})

    def test_many_threads_hand_over_their_own(self, qmp, in_thread, tmp_path):
        def hand(number):
            path = tmp_path / str(number)
            path.write_bytes(bytes(number * 512))
            with path.open("rb") as file:
                return number, qmp.add_fd(file)

        for number, fdset in [each.result(60) for each in [in_thread(hand, n) for n in range(1, 9)]]:
            node = {"driver": "file", "node-name": "n", "filename": f"/dev/fdset/{fdset}", "read-only": True}
            qmp.execute("blockdev-add", node)
            (block,) = qmp.execute("query-named-block-nodes", {"flat": True})
            assert block["image"]["virtual-size"] == number * 512
            qmp.execute("blockdev-del", {"node-name": "n"})
            qmp.execute("remove-fd", {"fdset-id": fdset})

    def test_what_is_not_open(self, qmp, tmp_path):
        with (tmp_path / "closed").open("w") as file:
            pass
        for wrong in (file, 10**6, -1):
            with pytest.raises(SpecError):
                qmp.add_fd(wrong)
        assert qmp.execute("query-fdsets") == []

    @FORGIVEN("leaked_fdset")
    def test_in_a_coroutine_and_left_behind(self, qmp, tmp_path):
        with (tmp_path / "file").open("wb") as file:
            fdset = asyncio.run(qmp.aio.add_fd(file))
        assert qmp.execute("query-fdsets")[0]["fdset-id"] == fdset


@FORGIVEN("leaked_fdset")
def test_what_a_client_handed_over_stays_when_it_leaves(vm, tmp_path):
    with (tmp_path / "file").open("wb") as file, connect(vm.name) as client:
        fdset = client.add_fd(file)
    with connect(vm.name) as client:
        assert [each["fdset-id"] for each in client.execute("query-fdsets")] == [fdset]
