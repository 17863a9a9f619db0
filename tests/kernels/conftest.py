"""The compiled library, or the reason to skip."""

import pytest

from hetcompress import kernels


@pytest.fixture(scope="session")
def library():
    """The path of the compiled library; a test that asks for it is skipped where it is not built."""
    ready, reason = kernels.available()
    if not ready:
        pytest.skip(reason)
    return kernels.library_path()
