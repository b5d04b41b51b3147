import os
import subprocess

import pytest

from pytest_qemuvm.host.process import TAG_VARIABLE


@pytest.fixture
def vm_spec():
    return {"template": "bare"}


@pytest.fixture
def look(coherence):
    """Check, compare the kinds found, take it all away, and see that nothing is left to be found."""

    def look_(*kinds):
        findings = coherence.check()
        assert sorted(finding.kind for finding in findings) == sorted(kinds)
        assert all(finding.hint for finding in findings)
        assert coherence.clean(findings) == {}
        assert coherence.check() == []
        return findings

    return look_


@pytest.fixture
def tagged(qemuvm):
    """Start a process that carries the session's tag, as whatever the harness starts does."""
    started = []

    def start(*argv):
        env = {**os.environ, TAG_VARIABLE: qemuvm.tag}
        started.append(subprocess.Popen(argv, env=env))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
