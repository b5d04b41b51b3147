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


def test_events_can_be_followed_from_the_first_and_as_they_come(monitor):
    async def body():
        monitor.execute("cont")
        seen = []
        async for event in monitor.aio.events:
            seen.append((event.seq, event.name))
            if len(seen) == 4:
                return seen
            # Sent only when the one before has been seen: these come while somebody waits.
            await monitor.aio.execute("stop" if event.name == "RESUME" else "cont")
        return None

    assert asyncio.run(body()) == [(1, "RESUME"), (2, "STOP"), (3, "RESUME"), (4, "STOP")]
    assert monitor._session.events._waits == []


def test_only_what_fits_is_followed_from_a_number_on(monitor):
    async def body():
        for command in ("cont", "stop", "cont", "stop"):
            monitor.execute(command)
        found = []
        async for event in monitor.events.follow(since=1, name=("RESUME", "RESET"), match=lambda data: True):
            found.append(event.seq)
            if event.seq >= 5:
                return found
            monitor.execute("cont")
        return None

    assert asyncio.run(body()) == [3, 5]


def test_a_storm_is_followed_in_order_and_ends_with_the_connection(client, peer, in_thread):
    def storm():
        for n in range(10_000):
            peer.event("E", n=n)
        peer.close()

    async def body():
        numbers = []
        try:
            async for event in client.aio.events:
                numbers += [event.data["n"]]
        except QmpDisconnected:
            return numbers
        return None

    storming = in_thread(storm)
    assert asyncio.run(body()) == list(range(10_000))
    storming.result(10)


def test_a_follower_that_is_cancelled_leaves_nothing_behind(client):
    async def body():
        async def follow():
            async for _ in client.aio.events:
                pass

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(follow(), 0.05)

    asyncio.run(body())
    assert client._session.events._waits == []
