import socket
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pytest_qemuvm.errors import ConnectError, MonitorBusy, PathTooLong, UnsafeDirectory
from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.host.sockets import LONGEST_PATH, dial, listen


@pytest.fixture
def private():
    with tempfile.TemporaryDirectory(prefix="qv", dir="/tmp") as directory:
        yield Path(directory)


def soon():
    return Deadline.after(10)


def test_the_longest_path_can_be_used_and_none_that_is_longer(private):
    path = private / ("x" * (LONGEST_PATH - len(str(private)) - 1))
    with listen(path) as listener, dial(path, soon()) as client:
        listener.accept()[0].close()
        assert client.getpeername() == str(path)
    path = path.with_name(f"{path.name}x")
    for act in (lambda: listen(path), lambda: dial(path, soon())):
        with pytest.raises(PathTooLong) as caught:
            act()
        assert caught.value.path == str(path)
        assert "TMPDIR" in caught.value.hint
    assert not path.exists()


def test_bytes_count_and_not_characters(private):
    path = private / ("ä" * 50)
    with pytest.raises(PathTooLong):
        listen(path)


@pytest.mark.parametrize("mode", [0o710, 0o702, 0o777])
def test_a_directory_that_others_can_use_is_refused(private, mode):
    path = private / "s"
    with listen(path):
        private.chmod(mode)
        for act in (lambda: listen(path), lambda: dial(path, soon())):
            with pytest.raises(UnsafeDirectory) as caught:
                act()
            assert caught.value.path == str(private)


def test_a_link_to_a_private_directory_is_none(private):
    (private / "real").mkdir(mode=0o700)
    (private / "link").symlink_to(private / "real")
    with pytest.raises(UnsafeDirectory):
        listen(private / "link" / "s")


def test_what_a_killed_listener_left_is_replaced(private):
    path = private / "s"
    listen(path).close()
    with pytest.raises(ConnectError):
        dial(path, soon())
    with listen(path), dial(path, soon()) as client:
        assert client.gettimeout() is None


def test_a_full_queue_is_waited_for_and_then_said(private):
    path = private / "s"
    waiting = []
    with listen(path) as listener:
        with pytest.raises(MonitorBusy) as caught:
            waiting.extend(dial(path, Deadline.after(0.1)) for _ in range(1000))
        assert caught.value.path == str(path)
        with ThreadPoolExecutor() as pool:
            late = pool.submit(dial, path, Deadline.after(60))
            # Whenever it has come: it gets the place of the first that is served.
            waiting.append(listener.accept()[0])
            waiting.append(late.result(60))
    for sock in waiting:
        assert sock.gettimeout() is None
        sock.close()


def test_nobody_listens(private):
    with pytest.raises(ConnectError):
        dial(private / "none", soon())
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(private / "deaf"))
        with pytest.raises(ConnectError):
            dial(private / "deaf", soon())
