"""The same from coroutines, and the synchronous face from inside a running loop."""

import asyncio

import anyio
import pytest

from pytest_qemuvm.errors import CommandError, QmpDisconnected, QmpTimeout


def test_everything_awaitable_under_asyncio(monitor):
    async def body():
        since = monitor.aio.events.last
        assert (await monitor.aio.execute("query-status"))["status"] == "prelaunch"
        async with monitor.aio.expect_event("RESUME") as seen:
            await monitor.aio.execute("cont")
        assert seen.event.seq == since + 1
        await monitor.aio.execute("stop")
        assert (await monitor.aio.wait_event("STOP", since=since)).seq == since + 2
        assert (await monitor.aio.wait_event("STOP")).seq == since + 2
        with pytest.raises(CommandError):
            await monitor.aio.execute("no-such-command")

    asyncio.run(body())


def test_many_at_once(monitor):
    async def body():
        return await asyncio.gather(*(monitor.aio.execute("query-name") for _ in range(50)))

    assert asyncio.run(body()) == [{}] * 50


def test_under_anyio(monitor):
    async def body():
        with anyio.fail_after(10):
            return await monitor.aio.execute("query-status")

    assert anyio.run(body)["running"] is False


def test_timeouts_leave_the_connection_usable(client, peer, in_thread):
    async def body():
        with pytest.raises(QmpTimeout):
            await client.aio.execute("slow", timeout=0.05)
        with pytest.raises(QmpTimeout):
            await client.aio.wait_event("STOP", timeout=0.05)
        with pytest.raises(QmpTimeout):
            async with client.aio.expect_event("STOP", timeout=0.05):
                pass

    asyncio.run(body())
    late = peer.hear()
    calling = in_thread(client.execute, "fast")
    peer.say({"return": "late", "id": late["id"]})
    peer.answer("fast")
    assert calling.result(10) == "fast"
    assert client._session.events._waits == []


def test_cancelled_call_leaves_the_connection_usable(client, peer, in_thread):
    async def body():
        with anyio.move_on_after(0.05) as scope:
            await client.aio.execute("slow")
        return scope.cancelled_caught

    assert anyio.run(body)
    late = peer.hear()
    calling = in_thread(client.execute, "fast")
    peer.say({"return": "late", "id": late["id"]})
    peer.answer("fast")
    assert calling.result(10) == "fast"


def test_death_wakes_coroutines(monitor, machine):
    async def body():
        waits = [asyncio.ensure_future(monitor.aio.wait_event("NEVER")) for _ in range(2)]
        await monitor.aio.execute("query-status")
        machine.process.kill()
        for wait in waits:
            with pytest.raises(QmpDisconnected) as caught:
                await wait
            assert caught.value.status == -9

    asyncio.run(body())


def test_synchronous_face_inside_a_running_loop(monitor):
    async def body():
        with monitor.expect_event("RESET"):
            monitor.execute("system_reset")
        return monitor.execute("query-status")["status"]

    assert asyncio.run(body()) == "prelaunch"


def test_awaitable_on_the_harness_own_loop(monitor, loop):
    assert loop.call(monitor.aio.execute("query-status"), timeout=10)["status"] == "prelaunch"
