"""The fidelity gate: the same requests to a real QEMU and to the simulator, replies and events compared.

What differs is listed in ``corpus/differences.json`` with a reason, and the list is wrong in both directions:
where something differs that is not on it, and where something on it does not differ.
"""

import json
from pathlib import Path

import pytest
from qmp_talk import LEAN, SIMULATOR, Talk, converse, normaliser

CORPUS = Path(__file__).parent / "corpus"
LEAST_REQUESTS = 150
LEAST_EQUAL = 0.98


def scenarios():
    return [
        (path.stem, scenario)
        for path in sorted(CORPUS.glob("*.json"))
        if path.stem not in ("differences", "launches")
        for scenario in json.loads(path.read_text())
    ]


SCENARIOS = scenarios()


def key(group, scenario, number):
    return f"{group}/{scenario['name']}/{number}"


def listed(version):
    """Return the known differences of a simulated version, with their reasons."""
    entries = json.loads((CORPUS / "differences.json").read_text())
    return {entry["request"]: entry["reason"] for entry in entries if version in entry["versions"]}


def outcomes(program, scenario, ground, version=None):
    filled = json.loads(json.dumps(scenario).replace("{dir}", str(ground)))
    with Talk(program, [*LEAN, *filled["argv"]], version) as talk:
        greeting = talk.negotiate() if filled["negotiated"] else talk.receive()
        version_of_peer = greeting["QMP"]["version"]["qemu"]
        return version_of_peer, converse(talk, filled["steps"], normaliser(ground))


def test_the_corpus_is_large_enough_and_little_of_it_differs():
    requests = sum(len(scenario["steps"]) for _, scenario in SCENARIOS)
    assert requests >= LEAST_REQUESTS
    known = {key(group, scenario, n) for group, scenario in SCENARIOS for n in range(len(scenario["steps"]))}
    for version in ("7.2", "10.0"):
        differing = listed(version)
        assert differing.keys() <= known
        assert 1 - len(differing) / requests >= LEAST_EQUAL
        assert all(differing.values())


@pytest.mark.parametrize(
    ("group", "scenario"),
    SCENARIOS,
    ids=lambda value: str(value) if isinstance(value, str) else value["name"],
)
def test_replies_and_events_are_those_of_qemu(
    group, scenario, real_qemu, real_version, simulated_version, tmp_path, lay
):
    real_ground, ground = lay(tmp_path / "real"), lay(tmp_path / "simulated")
    _, expected = outcomes(real_qemu, scenario, real_ground)
    peer, found = outcomes(SIMULATOR, scenario, ground, simulated_version)
    assert f"{peer['major']}.{peer['minor']}" == simulated_version
    if f"{real_version[0]}.{real_version[1]}" != simulated_version:
        pytest.skip(f"there is no recording of QEMU {real_version[0]}.{real_version[1]} to hold against it")
    differing = listed(simulated_version)
    wrong, stale = {}, []
    for number, pair in enumerate(zip(expected, found, strict=True)):
        request = key(group, scenario, number)
        if pair[0] != pair[1] and request not in differing:
            wrong[request] = pair
        if pair[0] == pair[1] and request in differing:
            stale.append(request)
    assert wrong == {}
    assert stale == []
