"""What a command may replace, and what it must not."""

import pytest

from hetcompress.errors import UsageError
from hetcompress.pipeline._finetune import fingerprint_of
from hetcompress.run_files import alone
from hetcompress.training import Trainer

SMOKE = ("finetune", "--data", "digits", "--max-steps", 6, "-b", 32)


def test_prune_replaces_what_was_trained_only_when_told(hc, digits, tmp_path):
    hc("convert", "model.pt", *digits)
    assert hc(*SMOKE, "-q")[0] == 0
    trained = (tmp_path / "hetrun" / "pruned.safetensors").read_bytes()
    code, _, err = hc("prune", "--density", 0.5)
    assert code == 2
    assert "expected one without training results, found a fine-tuned model. Fix: pass --force" in err
    assert (tmp_path / "hetrun" / "pruned.safetensors").read_bytes() == trained
    assert hc("prune", "--density", 0.5, "--force")[0] == 0
    assert (tmp_path / "hetrun" / "pruned.safetensors").read_bytes() != trained
    (tmp_path / "hetrun" / "checkpoints").mkdir(exist_ok=True)
    (tmp_path / "hetrun" / "checkpoints" / "last.ckpt").write_bytes(b"state")
    code, _, err = hc("prune", "--density", 0.5)
    assert (code, "found a training that was interrupted and can go on" in err) == (2, True)
    assert (tmp_path / "hetrun" / "checkpoints" / "last.ckpt").read_bytes() == b"state"


def test_what_is_trained_to_the_end_is_not_trained_again(hc, digits, tmp_path):
    hc("convert", "model.pt", *digits)
    first = hc(*SMOKE, "-q")
    before = (tmp_path / "hetrun" / "pruned.safetensors").stat().st_mtime_ns
    code, out, err = hc(*SMOKE)
    assert code == 0, err
    assert "trained to the end before; --resume never trains anew" in err
    assert first[1] in out
    assert (tmp_path / "hetrun" / "pruned.safetensors").stat().st_mtime_ns == before
    code, _, err = hc(*SMOKE, "--lr", 0.02)
    assert code == 2
    assert (
        "run hetrun: expected no finished training but one of the same settings, found one of other settings "
        "(lr 0.03, now 0.02). Fix: pass --resume never to train anew and replace it" in err
    )
    assert (tmp_path / "hetrun" / "pruned.safetensors").stat().st_mtime_ns == before
    code, _, err = hc(*SMOKE, "--lr", 0.02, "--resume", "never")
    assert code == 0, err
    assert "what was trained in hetrun before is replaced when this ends, with its reports and exports" in err
    assert (tmp_path / "hetrun" / "pruned.safetensors").stat().st_mtime_ns > before


def test_a_refused_target_of_time_measures_and_writes_nothing(hc, digits, tmp_path, monkeypatch):
    hc("convert", "model.pt", *digits)
    assert hc(*SMOKE)[0] == 0

    def aim(*_arguments, **_named):
        raise AssertionError("measured")

    monkeypatch.setattr("hetcompress.pipeline._finetune._aimed", aim)
    before = (tmp_path / "hetrun" / "run.json").read_bytes()
    code, _, err = hc(*SMOKE, "--latency-ratio", 1.5)
    assert code == 2
    assert "found one of other settings (latency-ratio not given, now 1.5)" in err
    assert (tmp_path / "hetrun" / "run.json").read_bytes() == before


def test_a_model_that_is_gone_is_made_again(hc, digits, tmp_path):
    hc("convert", "model.pt", *digits)
    first = hc(*SMOKE)
    (tmp_path / "hetrun" / "pruned.safetensors").unlink()
    again = hc(*SMOKE)
    assert again[0] == 0, again[2]
    assert again[1] == first[1]
    assert (tmp_path / "hetrun" / "pruned.safetensors").exists()


def test_what_is_to_replace_a_training_goes_on_after_a_kill(hc, digits, monkeypatch):
    hc("convert", "model.pt", *digits)
    assert hc(*SMOKE)[0] == 0
    steps = Trainer._step

    def step(self, number, *arguments):
        if number == 4:
            raise KeyboardInterrupt  # which asks for no more than to end at once
        steps(self, number, *arguments)

    again = (*SMOKE, "--lr", 0.02, "--checkpoint-every", 2)
    with monkeypatch.context() as patches:
        patches.setattr(Trainer, "_step", step)
        assert hc(*again, "--resume", "never")[0] == 130
    code, _, err = hc(*again, "--lr", 0.04)
    assert code == 3
    assert "expected one of the same settings, found one of other settings (lr 0.02, now 0.04)" in err
    code, _, err = hc(*again)
    assert code == 0, err
    assert "resumed at step 4 of 6" in err


def test_the_same_prune_again_leaves_what_was_made_of_it(hc, digits, tmp_path):
    hc("convert", "model.pt", *digits)
    hc("prune", "--density", 0.5)
    assert hc("export", "--safetensors", "--seconds", 0)[0] == 0
    made = tmp_path / "hetrun" / "export" / "model.safetensors"
    code, out, _ = hc("prune", "--density", 0.5)
    assert code == 0
    assert "removed" not in out
    assert made.exists()
    code, out, _ = hc("prune", "--density", 0.4)
    assert code == 0
    assert "removed, since they were made of the earlier shapes: export/" in out
    assert not made.exists()


def test_a_file_of_the_user_in_a_run_folder_stays(hc, digits, tmp_path):
    hc("convert", "model.pt", *digits)
    hc("prune", "--density", 0.5)
    assert hc("export", "--safetensors", "--seconds", 0)[0] == 0
    run = tmp_path / "hetrun"
    notes = [run / "mine.txt", run / "export" / "model-mine.onnx", run / "checkpoints" / "best.ckpt"]
    for note in notes:
        note.parent.mkdir(exist_ok=True)
        note.write_text("mine")
    (run / "export" / ".model-k1ll3d.onnx").write_text("what a write leaves that is killed")
    code, _, err = hc("convert", "model.pt", *digits, "--force")
    assert code == 2
    assert (
        "expected a run and nothing else to replace, found checkpoints/best.ckpt, export/model-mine.onnx, mine.txt"
        in err
    )
    code, out, _ = hc("prune", "--density", 0.4)
    assert code == 0
    assert "removed, since they were made of the earlier shapes: export/" in out
    assert [note.read_text() for note in notes] == ["mine"] * 3
    assert [path.name for path in (run / "export").iterdir()] == ["model-mine.onnx"], "others were of another model"
    for note in notes:
        note.unlink()
    assert hc("convert", "model.pt", *digits, "--force")[0] == 0


def test_data_of_other_classes_do_not_take_up_a_training(tmp_path):
    weights = tmp_path / "weights"
    weights.write_bytes(b"weights")
    settings, moved = ({"data": {"name": "imagefolder", "root": root}} for root in ("one", "two"))
    own = fingerprint_of(settings, weights, ("a", "b"), 3)
    assert own == fingerprint_of(moved, weights, ("a", "b"), 3)
    assert own != fingerprint_of(settings, weights, ("a", "c"), 3)
    assert own != fingerprint_of(settings, weights, ("a", "b"), 4)


def test_two_trainings_in_one_folder_are_refused(hc, digits, tmp_path):
    hc("convert", "model.pt", *digits)
    with alone(tmp_path / "hetrun"):
        code, _, err = hc(*SMOKE)
        assert code == 2
        assert "expected no other training in it, found one that is still running. Fix: wait for it" in err
    with alone(tmp_path / "hetrun"), pytest.raises(UsageError, match="still running"), alone(tmp_path / "hetrun"):
        pass
    assert hc(*SMOKE, "-q")[0] == 0


def test_what_an_earlier_export_left_is_named(hc, digits, tmp_path):
    hc("convert", "model.pt", *digits)
    hc("prune", "--density", 0.5)
    (tmp_path / "hetrun" / "export").mkdir()
    (tmp_path / "hetrun" / "export" / ".model-k1ll3d.onnx").write_text("what an export leaves that is killed")
    assert "earlier export" not in hc("export", "--pt2", "--seconds", 0)[2]
    code, _, err = hc("export", "--safetensors", "--seconds", 0)
    assert code == 0
    assert "NOTE: beside them, of an earlier export and perhaps in other forms than plan.json says: model.pt2" in err


def test_of_two_targets_the_one_that_decides_is_said(hc, digits):
    hc("convert", "model.pt", *digits)
    code, _, err = hc("prune", "--density", 0.2, "--mac-ratio", 1.1)
    assert code == 0
    assert "NOTE: density 0.2 decides: the MAC ratio is " in err
    code, _, err = hc("prune", "--density", 0.9, "--mac-ratio", 3)
    assert code == 0
    assert "NOTE: MAC ratio 3 decides: the density is 0." in err
    assert "decides" not in hc("prune", "--density", 0.4)[2]
    code, _, err = hc(*SMOKE, "--density", 0.02, "--mac-ratio", 1.1)
    assert code == 0
    assert "NOTE: density 0.02 decides" in err
