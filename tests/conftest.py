"""Fixtures and settings of all tests."""

from pathlib import Path

import pytest
import torch
from hypothesis import settings

REPO = Path(__file__).resolve().parent.parent

settings.register_profile("default", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("default")


@pytest.fixture(autouse=True)
def _one_thread_and_seed():
    # several test processes share the machine
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def shared():
    """The folder of public checkpoints and data that may lie beside the repository."""
    folder = REPO.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside the repository")
    return folder


@pytest.fixture(scope="session")
def library():
    """The path of the compiled kernels; a test that asks for it is skipped where they are not built."""
    from hetcompress import kernels

    ready, reason = kernels.available()
    if not ready:
        pytest.skip(reason)
    return kernels.library_path()
