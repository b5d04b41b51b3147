"""``qemuvm plan diff``: its three statuses, and what it shows."""

import json

import pytest

PLANS = {"test_x.py::test_y": [{"name": "web", "argv": ["qemu", "-m", "256M"]}]}
OTHER = {"test_x.py::test_y": [{"name": "web", "argv": ["qemu", "-m", "512M"]}], "test_z": []}


@pytest.fixture
def files(tmp_path):
    def write(*contents):
        paths = []
        for number, content in enumerate(contents):
            path = tmp_path / f"{number}.json"
            path.write_text(content if isinstance(content, str) else json.dumps(content))
            paths.append(str(path))
        return paths

    return write


def test_the_same_plans(qemuvm, files):
    status, out, _ = qemuvm("plan", "diff", *files(PLANS, PLANS))
    assert (status, out.strip()) == (0, "the same: 1 test")


def test_different_plans_are_shown_line_by_line(qemuvm, files):
    one, other = files(PLANS, OTHER)
    status, out, _ = qemuvm("plan", "diff", one, other)
    assert status == 1
    lines = out.splitlines()
    assert lines[0] == "test_x.py::test_y:"
    assert '-      "256M"' in lines
    assert '+      "512M"' in lines
    assert lines[-1] == f"test_z: only in {other}"


def test_golden_files_are_compared_as_well(qemuvm, files):
    (plans,), (others, _) = PLANS.values(), OTHER.values()
    assert qemuvm("plan", "diff", *files(plans, plans))[0] == 0
    assert qemuvm("plan", "diff", *files(plans, others))[0] == 1


@pytest.mark.parametrize("content", ["no JSON", "3", '{"a": 3}'])
def test_what_is_no_file_of_plans_is_misuse(qemuvm, files, content):
    status, _, err = qemuvm("plan", "diff", *files(PLANS, content))
    assert status == 2
    assert "1.json is not a file of plans" in err


def test_a_file_that_is_missing_is_misuse(qemuvm, files, tmp_path):
    status, _, err = qemuvm("plan", "diff", *files(PLANS), str(tmp_path / "missing.json"))
    assert status == 2
    assert "missing.json" in err


@pytest.mark.parametrize(
    "words", [("plan",), ("plan", "diff"), ("plan", "diff", "a"), ("plan", "dif", "a", "b")]
)
def test_too_few_words_are_misuse(qemuvm, words):
    assert qemuvm(*words)[0] == 2
