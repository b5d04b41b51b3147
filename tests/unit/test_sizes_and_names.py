import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_qemuvm.errors import SpecError
from pytest_qemuvm.spec.names import checked_name
from pytest_qemuvm.spec.sizes import format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [("512M", 512 * 1024**2), ("2G", 2 * 1024**3), ("64KiB", 65536), ("1 T", 1024**4), (4096, 4096)],
)
def test_a_size_carries_its_unit(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "bad", ["512", "512X", "512MB", "", "M", "-1M", "1.5G", 0, -1, True, None, 1.5, "0M"]
)
def test_what_is_no_size_is_a_value_error_that_says_how_to_write_one(bad):
    with pytest.raises(SpecError) as caught:
        parse_size(bad, "memory")
    assert isinstance(caught.value, ValueError)
    assert "memory" in caught.value.brief


@given(st.integers(min_value=1, max_value=2**60))
def test_a_formatted_size_reads_back(size):
    text = format_size(size)
    assert parse_size(int(text[:-1]) if text.endswith("B") else text) == size


@given(st.from_regex(r"[A-Za-z][A-Za-z0-9_.-]{0,62}", fullmatch=True))
def test_every_name_of_the_pattern_is_a_name(name):
    assert checked_name(name, "VM") == name


@pytest.mark.parametrize(
    "bad", ["", "1a", "-a", "a b", "a/b", "a\n", "ä", "a" * 64, "a,b", None, 7, "../x", "a\0"]
)
def test_other_names_are_refused(bad):
    with pytest.raises(SpecError):
        checked_name(bad, "VM")
