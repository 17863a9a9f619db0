"""How much commands say: -q and -v mean the same for all of them."""

import inspect
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import typer.main

from hetcompress import cli
from hetcompress.cli.pruned import say_what_stays
from hetcompress.cli.verbosity import with_verbosity
from hetcompress.errors import HetCompressError, UsageError

NAMES = ("convert", "finetune", "prune", "report", "export", "bench", "demo", "list")


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_both(hc, name):
    code, out, _ = hc(name, "--help")
    assert code == 0
    assert "--quiet, -q" in out or "-q, --quiet" in out
    assert "--verbose, -v" in out or "-v, --verbose" in out


def test_no_command_is_left_out():
    commands = typer.main.get_command(cli.app).commands
    assert set(commands) == set(NAMES)
    assert all("..." not in command.get_short_help_str(62) for command in commands.values()), "cut off in the list"


def test_both_at_once(hc):
    code, out, err = hc("list", "-q", "-v")
    assert (code, out) == (2, "")
    assert "--quiet and --verbose: expected one of them, found both" in err


def test_quiet_leaves_results_and_warnings(hc, digits, tmp_path):
    code, out, err = hc("convert", "model.pt", *digits, "-q")
    assert (code, err) == (0, "")
    summary, folder = out.splitlines()
    assert summary.startswith("hetcompress:digits_net: 3 of 4 convolutions converted")
    assert folder == "run folder: hetrun"
    code, out, err = hc("prune", "--density", 1.0, "-q")
    assert (code, out, err) == (0, "density 1.0000, MAC ratio 1.000 (effective)\n", "")
    assert hc("finetune", "--data", "digits", "--max-steps", 3, "-q", "--stage", "fine")[::2] == (0, "")
    code, out, err = hc("report", "--no-latency", "-q")
    assert code == 0
    assert out.splitlines() == [
        "parameters: ratio 1.005", "MACs effective: ratio 1.000", "MACs executed: ratio 1.000",
        "written: hetrun/report/report.json and layers.csv",
    ]  # fmt: skip
    plan, size = err.splitlines()
    assert plan == "NOTE: no layer is smaller or faster in another form than dense"
    assert size.startswith("NOTE: not smaller than the dense model in ONNX: ")
    code, out, err = hc("export", "--safetensors", "--seconds", 0, "-q")
    assert code == 0
    assert out.startswith("verified: hetrun/export/model.safetensors")
    assert out.count("\n") == 1
    code, out, err = hc("export", "--onnx", "--seconds", 0.02, "-q")
    assert code == 0
    assert [line.split(":")[0] for line in out.splitlines()] == [
        "onnxruntime, batch 1", "onnxruntime, batch 16", "verified",
    ]  # fmt: skip
    code, out, err = hc("bench", "dense", "dense", "-b", 1, "--seconds", 0.02, "-q")
    assert (code, err) == (0, "")
    reference, again = out.splitlines()
    assert reference.startswith("dense (1) in onnxruntime, batch 1, threads 1: ")
    assert reference.endswith("reference")
    assert "time ratio" in again


def test_warnings_are_said_under_quiet_and_beside_json(hc, digits):
    hc("convert", "model.pt", *digits)
    hc("prune", "--density", 1.0)
    for options in (("-q",), ("--json",), ()):
        code, out, err = hc("export", "--onnx", "--seconds", 0, *options)
        assert code == 0
        assert "NOTE: model.onnx is not smaller than the dense model" in err
        assert "NOTE" not in out


def test_verbose_tells_of_the_machine(hc):
    code, out, err = hc("list", "-v")
    assert code == 0
    assert err.startswith("hetcompress ")
    for word in ("Python 3.", "torch ", "onnxruntime ", "took ", " MB of memory"):
        assert word in err
    assert out == hc("list")[1]
    assert hc("list")[2] == ""  # asked for once, not for ever


def test_verbose_shows_what_an_error_hides(hc, tmp_path):
    (tmp_path / "run.pt").write_bytes(b"PK\x03\x04 nonsense")
    code, _, err = hc("convert", "run.pt", "-v")
    assert code == 3
    assert "Traceback" in err
    assert "BadZipFile" in err
    assert err.splitlines()[-1].startswith("error: checkpoint run.pt: expected a complete file")
    code, _, err = hc("convert", "run.pt")
    assert (code, err.count("\n")) == (3, 1)


def test_brackets_in_names_are_printed(hc, digits):
    code, out, _ = hc("convert", "model.pt", *digits, "-q", "--run", "[red]run")
    assert code == 0
    assert "run folder: [red]run" in out


def test_a_command_keeps_its_own_options():
    def command(path: str, number: int = 3) -> None:
        raise HetCompressError(f"{path} {number}")

    wrapped = with_verbosity(command)
    assert list(inspect.signature(wrapped).parameters) == ["path", "number", "quiet", "verbose"]
    with pytest.raises(HetCompressError, match="a 4"):
        wrapped(path="a", number=4, quiet=False, verbose=False)
    with pytest.raises(UsageError):
        wrapped(path="a", number=4, quiet=True, verbose=True)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_named(tmp_path, signum, code):
    """Sent to itself where a command does its work."""
    script = f"""
import os, signal, sys
from hetcompress import pipeline
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell may have turned off for its background
from hetcompress.cli import main
pipeline.bench = lambda *_, **__: os.kill(os.getpid(), {int(signum)})
sys.argv = ["hetcompress", "bench", "dense", "-v"]
main()
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert f"error: stopped by {signum.name}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("targets", "found", "said"),
    [
        ((0.2, None), (0.2, 1.5), "costs few MACs; --mac-ratio aims"),
        ((0.2, None), (0.2, 3.0), ""),
        ((None, 5.0), (0.6, 5.0), "60% of the weights stay, in layers of few MACs"),
        ((None, None), (0.9, 2.0), "90% of the weights stay"),
        ((None, 5.0), (0.3, 5.0), ""),
        ((0.6, 5.0), (0.6, 5.0), ""),
    ],
)
def test_what_stays_is_said(capsys, targets, found, said):
    say_what_stays(*targets, SimpleNamespace(density=found[0], mac_ratio=found[1], time=None))
    out = capsys.readouterr().out
    assert said in out.replace("\n", " ")
    assert bool(out) == bool(said)
