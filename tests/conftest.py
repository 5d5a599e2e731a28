"""Settings for all tests: no network, no timing, one place for shared real data."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
settings.register_profile("tests", deadline=None, derandomize=True)
settings.load_profile("tests")

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout; the test is skipped where there is none."""
    if not SHARED.is_dir():
        pytest.skip("no shared data beside this checkout")
    return SHARED
