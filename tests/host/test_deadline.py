import math
import select
import threading

import pytest

from pytest_qemuvm.errors import SpecError
from pytest_qemuvm.host.deadline import Deadline


@pytest.mark.parametrize("seconds", [math.inf, 1e300, 10**9])
def test_for_ever_is_a_time_that_every_wait_of_the_system_takes(seconds):
    deadline = Deadline.after(seconds)
    assert deadline.seconds == seconds
    assert not deadline.expired
    reader, lock = select.poll(), threading.Lock()
    reader.register(1, select.POLLOUT)
    assert lock.acquire(timeout=deadline.remaining)
    reader.poll(deadline.remaining * 1000)


@pytest.mark.parametrize("seconds", [0, -1, -math.inf])
def test_no_time_at_all_has_passed_already(seconds):
    assert Deadline.after(seconds).expired
    assert Deadline.after(seconds).remaining == 0


@pytest.mark.parametrize("seconds", [math.nan, "5", None, True, 1j])
def test_what_is_no_number_of_seconds_is_refused(seconds):
    with pytest.raises(SpecError):
        Deadline.after(seconds)
