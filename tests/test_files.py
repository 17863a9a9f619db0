"""Writing files where the disk is full or the name is taken: one line, and nothing half-written left."""

import subprocess
import sys

import pytest

from hetcompress.errors import HetCompressError, UsageError
from hetcompress.files import check_writable, replaced_together, write_bytes, write_text

LIMITED = """
import resource, signal, sys
from pathlib import Path

import torch

from hetcompress.artifacts import RunFolder
from hetcompress.checkpointing import save_checkpoint
from hetcompress.cli import main
from hetcompress.errors import HetCompressError
from hetcompress.models import MODELS

net = MODELS["digits_net"].build(width=16)
torch.save(net.state_dict(), "model.pt")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
run = RunFolder(Path("run"), {"format": 1, "text": "x" * 9000})
state = {"weights": torch.zeros(5000)}
for write in (run.save, lambda: run.save_pruned(net), lambda: save_checkpoint(run.checkpoint, state)):
    try:
        write()
    except HetCompressError as error:
        print(error)
sys.argv = ["hetcompress", "convert", "model.pt", "--arch", "hetcompress:digits_net", "--arch-arg", "width=16"]
main()
"""


def test_a_full_disk(tmp_path):
    pytest.importorskip("resource")
    done = subprocess.run([sys.executable, "-c", LIMITED], cwd=tmp_path, capture_output=True, text=True, check=False)
    full = "found File too large. Fix: free some space or choose another folder"
    assert done.stdout.splitlines() == [
        f"cannot write run/run.json: {full}",
        f"cannot write run/pruned.safetensors: {full}",
        f"cannot write run/checkpoints/last.ckpt: {full}",
    ], done.stderr
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr == f"error: cannot write run folder hetrun: {full}\n"
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        "model.pt", "run", "run/checkpoints"
    ]  # fmt: skip


def test_a_name_that_is_taken(tmp_path):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder").mkdir()
    long = tmp_path / ("a" * 250 + ".onnx")  # with what tells temporary files apart it is too long
    for path in (tmp_path / "file" / "model.onnx", tmp_path / "file" / "a" / "b", tmp_path / "folder", long):
        for write in (lambda path=path: write_text(path, "new"), lambda path=path: check_writable(path)):
            with pytest.raises(UsageError, match=r"cannot write .*Fix: name another path"):
                write()
    for path in (tmp_path / "file", tmp_path / "folder" / "a" / "b"):
        check_writable(path)
    assert (tmp_path / "file").read_text() == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_folder_that_may_not_be_written(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    with pytest.raises(HetCompressError, match=r"found Permission denied\. Fix: make it writable") as error:
        write_bytes(tmp_path / "file", b"new")
    assert error.value.exit_code == 1


def test_files_take_their_names_together_or_not_at_all(tmp_path):
    first, second = tmp_path / "first.onnx", tmp_path / "new" / "second.json"
    with replaced_together((first, second)) as drafts:
        for name, draft in drafts.items():
            write_text(draft, name.name)
        assert not first.exists()
    assert [path.read_text() for path in (first, second)] == ["first.onnx", "second.json"]
    with pytest.raises(ZeroDivisionError), replaced_together((first, second)) as drafts:
        write_text(drafts[first], f"lost {1 / 0}")
    assert first.read_text() == "first.onnx"
    with pytest.raises(UsageError, match="Is a directory"), replaced_together((first, tmp_path / "new")):
        pass
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["first.onnx", "new", "second.json"]
