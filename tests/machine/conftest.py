import pytest


@pytest.fixture
def vm_spec():
    return {"template": "bare"}
