"""``vm.qmp.aio`` in the loops that other plugins run: pytest-asyncio's and anyio's, each and both."""

from importlib.metadata import version

import pytest

pytestmark = pytest.mark.all_plugins

BODY = """
import asyncio
import os
import signal

import pytest

from pytest_qemuvm.errors import CommandBlocked, CommandError, QmpDisconnected, QmpTimeout
from pytest_qemuvm.qmp import connect


@pytest.fixture
async def paused(vm):
    # An asynchronous fixture over a synchronous one, with its own teardown in the loop.
    async with vm.qmp.aio.expect_event("STOP"):
        await vm.qmp.aio.execute("stop")
    yield vm
    async with vm.qmp.aio.expect_event("RESUME"):
        await vm.qmp.aio.execute("cont")


@MARK
async def test_commands_and_events(vm):
    assert (await vm.qmp.aio.execute("query-status"))["running"]
    with pytest.raises(CommandError):
        await vm.qmp.aio.execute("device_del", {"id": "nobody"})
    with pytest.raises(CommandBlocked):
        await vm.qmp.aio.execute("inject-nmi")
    async with vm.qmp.aio.expect_event("RESET") as seen:
        await vm.qmp.aio.execute("system_reset")
    assert seen.event.seq <= vm.qmp.events.last


@MARK
async def test_a_fixture_of_the_loop(paused):
    assert (await paused.qmp.aio.execute("query-status"))["status"] == "paused"
    assert paused.qmp.execute("query-status")["status"] == "paused"


@MARK
async def test_many_at_once_and_meanwhile(vm):
    waiting = asyncio.ensure_future(vm.qmp.aio.wait_event("STOP"))
    answers = await asyncio.gather(*(vm.qmp.aio.execute("query-name") for _ in range(20)))
    assert len(answers) == 20
    # The synchronous face stops the loop, not the connection.
    vm.qmp.execute("stop")
    assert (await waiting).name == "STOP"
    async for event in vm.qmp.aio.events:
        assert event.name == "STOP"
        break


@MARK
async def test_the_second_monitor(vm):
    with await asyncio.to_thread(connect, vm.name) as client:
        async with client.aio.expect_event("RESET"):
            await vm.qmp.aio.execute("system_reset")


@MARK
async def test_a_time_out_and_a_cancelled_wait(vm):
    with pytest.raises(QmpTimeout):
        await vm.qmp.aio.wait_event("NEVER", timeout=0.01)
    task = asyncio.ensure_future(vm.qmp.aio.wait_event("NEVER"))
    await vm.qmp.aio.execute("query-name")  # it has begun
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await vm.qmp.aio.execute("query-status"))["running"]


@MARK
@pytest.mark.qemuvm_expect("vm_state_mismatch")
async def test_death(vm):
    waiting = asyncio.ensure_future(vm.qmp.aio.wait_event("NEVER", timeout=60))
    await vm.qmp.aio.execute("query-name")
    os.kill(vm.pid, signal.SIGKILL)
    with pytest.raises(QmpDisconnected):
        await waiting


def test_without_a_loop(vm):
    assert vm.qmp.execute("query-status")["running"]
    assert asyncio.run(vm.qmp.aio.execute("query-status"))["running"]
"""

TESTS = 7
BARE = "\npytestmark = pytest.mark.qemuvm(template='bare')\n"
BACKEND = "\n@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'\n"
# Asked for by versions that know it, unknown to those that are the newest for the oldest pytest.
IS_OLD = version("pytest-asyncio").startswith("0.23.")
# Those leave a loop of their own unclosed.
INI = "[pytest]\nfilterwarnings =\n  error\n"
INI += "  ignore::pytest.PytestUnraisableExceptionWarning\n" if IS_OLD else ""
LOOPS = "" if IS_OLD else "asyncio_default_fixture_loop_scope = function\n"
STRICT = "import pytest_asyncio\n" + BODY.replace("@MARK", "@pytest.mark.asyncio").replace(
    "@pytest.fixture\nasync", "@pytest_asyncio.fixture\nasync"
)
ANYIO = BODY.replace("@MARK", "@pytest.mark.anyio") + BACKEND


@pytest.fixture
def run_async(run, pytester):
    """Run a suite with the plugins of this environment, as ``run`` does without."""

    def run_(*args):
        common = ("-p", "no:cacheprovider", "--qemu-real", "--strict-markers")
        return pytester.runpytest_subprocess(*common, *args, timeout=120)

    return run_


def test_pytest_asyncio_in_its_strict_mode(pytester, run_async):
    pytester.makeini(INI + LOOPS)
    pytester.makepyfile(STRICT + BARE)
    run_async("-p", "no:anyio").assert_outcomes(passed=TESTS)


def test_pytest_asyncio_in_its_auto_mode(pytester, run_async):
    pytester.makeini(INI + LOOPS + "asyncio_mode = auto\n")
    pytester.makepyfile(BODY.replace("@MARK\n", "") + BARE)
    run_async("-p", "no:anyio").assert_outcomes(passed=TESTS)


def test_anyio(pytester, run_async):
    pytester.makeini(INI)
    pytester.makepyfile(ANYIO + BARE)
    run_async("-p", "no:asyncio").assert_outcomes(passed=TESTS)


def test_both_in_one_run(pytester, run_async):
    pytester.makeini(INI + LOOPS)
    pytester.makepyfile(test_one=STRICT + BARE, test_other=ANYIO + BARE)
    run_async().assert_outcomes(passed=2 * TESTS)
