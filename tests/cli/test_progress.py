"""What commands show while they work: on a terminal, in a log, and under -q."""

import io
import re
import threading
from types import SimpleNamespace

import pytest
from rich.console import Console

from hetcompress.activity import working
from hetcompress.cli import progress


@pytest.fixture
def often(monkeypatch):
    """A plain line each time, as if each step took long."""
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    monkeypatch.setattr(progress, "DRAW_SECONDS", 0.0)


@pytest.fixture
def terminal(monkeypatch, often):
    """What is drawn on a terminal of 60 columns."""
    monkeypatch.setenv("TERM", "xterm")
    drawn = io.StringIO()
    monkeypatch.setattr(progress, "stderr", Console(file=drawn, force_terminal=True, width=60))
    return drawn


def test_a_log_has_a_line_for_what_takes_long(hc, digits, often):
    hc("convert", "model.pt", *digits)
    hc("prune", "--mac-ratio", 2)
    code, out, err = hc("export", "--onnx", "--seconds", 0.1, "--no-kernels")
    assert code == 0
    assert "finding forms: layer 3 of 3\n" in err
    assert "timing in onnxruntime, batch 16\n" in err
    assert "finding forms" not in out


def test_what_is_quick_has_none(hc, digits):
    hc("convert", "model.pt", *digits)
    code, _, err = hc("prune", "--mac-ratio", 2)
    assert (code, err) == (0, "")
    assert "finding forms" not in hc("report", "--no-latency", "--plan", "macs")[2]


def test_quiet_has_none(hc, digits, often):
    hc("convert", "model.pt", *digits)
    hc("prune", "--mac-ratio", 2, "-q")
    assert "finding forms" not in hc("report", "--no-latency", "-q")[2]


def test_training_tells_what_it_evaluates(hc, digits, often):
    hc("convert", "model.pt", *digits)
    code, _, err = hc("finetune", "--data", "digits", "--max-steps", 3)
    assert code == 0
    assert "evaluating: batch 1\n" in err
    assert "step 1 of 3" not in err, "how long a step takes is not known yet"
    assert re.search(r"step 2 of 3, loss [\d.]+, about [\d.]+ min left\n", err)


def test_the_time_that_is_left(monkeypatch, capsys, often):
    clock = iter(range(0, 6000, 60))
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with progress.TrainingProgress() as reporter:
        for step in (101, 102):
            reporter.progressed(step, 112, {"loss": 1.0})
    assert capsys.readouterr().err == "step 102 of 112, loss 1.000, about 10.0 min left\n"


def test_a_terminal_shows_one_line_and_clears_it(terminal):
    with progress.activity():
        working("finding forms: layer 1 of 18")
        working("x" * 100)
    shown = terminal.getvalue()
    assert "finding forms: layer 1 of 18" in shown
    assert "x" * 59 + "…" in shown, "longer than the terminal is wide"
    assert shown.rstrip().endswith("\x1b[2K"), "the line is gone in the end"


def test_a_terminal_shows_what_happens_beside_the_bar(terminal):
    with progress.TrainingProgress() as reporter:
        working("evaluating: batch 7")
        assert "evaluating: batch 7" in terminal.getvalue()
        reporter.progressed(3, 10, {"loss": 0.25})
        assert "3/10" in terminal.getvalue()
        assert "loss 0.250" in terminal.getvalue()


def test_no_thread_draws(terminal):
    before = threading.active_count()
    with progress.TrainingProgress():
        assert threading.active_count() == before
    with progress.activity():
        assert threading.active_count() == before
