"""Fixtures and settings of all tests."""

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from hetcompress import cli
from hetcompress.models import MODELS

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


@pytest.fixture
def hc(capsys, monkeypatch, tmp_path):
    """Run the command line in this process, in an empty folder; returns exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HETCOMPRESS_DATA", raising=False)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["hetcompress", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def digits(tmp_path):
    pytest.importorskip("sklearn")
    torch.manual_seed(0)
    torch.save({"state_dict": MODELS["digits_net"].build(width=16).state_dict()}, tmp_path / "model.pt")
    return ("--arch", "hetcompress:digits_net", "--arch-arg", "width=16")


@pytest.fixture(scope="session")
def library():
    """The path of the compiled kernels; a test that asks for it is skipped where they are not built."""
    from hetcompress import kernels

    ready, reason = kernels.available()
    if not ready:
        pytest.skip(reason)
    return kernels.library_path()
