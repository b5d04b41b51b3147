"""A place of its own for live templates, with what they are made of taken from the user's cache."""

from types import SimpleNamespace

import pytest

from pytest_qemuvm.host.saves import SaveStore


@pytest.fixture
def own_store(qemuvm, tmp_path, monkeypatch):
    """Have this session keep its live templates below ``tmp_path``; ``lines`` is what it says meanwhile."""
    templates = qemuvm.live_templates
    store = SaveStore(tmp_path / "cache")
    lines = []
    for owner in (templates, templates._maker):
        monkeypatch.setattr(owner, "store" if owner is templates else "_store", store)
        monkeypatch.setattr(owner, "_progress", lines.append)
    for name, empty in (("_loaded", {}), ("_failed", set()), ("_unmade", {})):
        monkeypatch.setattr(templates, name, empty)
    yield SimpleNamespace(store=store, lines=lines, forget=templates.close)
    templates.close()
