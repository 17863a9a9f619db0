"""When a target is called too hard, and what is named instead."""

import dataclasses
import json
import statistics
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hetcompress.budgets import Budget
from hetcompress.difficulty import LIMIT, TooHard, too_hard
from hetcompress.evaluation import Accuracy

ABLATION = Path(__file__).parent.parent / "benchmarks" / "accuracy" / "ablation.jsonl"


def budget(unit, target):
    return Budget({}, 0.0, 1.0, 1.0, unit, target, 1.0)


def accuracies(source, after):
    return {"source": Accuracy(source, 1000, 0.0), "after recalibration": Accuracy(after, 1000, 0.0)}


@given(st.integers(1, 1000), st.integers(0, 1000), st.floats(1.001, 1000))
def test_the_next_target_is_easier_and_no_easier_than_it_must_be(source, after, ratio):
    said = too_hard(budget("MAC ratio", ratio), accuracies(source, after), 3.5)
    assume(abs(lost := 1 - after / source - LIMIT) > 1e-9)
    if lost < 0:
        assert said is None
    else:
        assert ratio**0.5 - 1e-9 <= said.easier < ratio


def test_a_net_in_ruins_is_not_sent_back_to_the_source():
    assert too_hard(budget("MAC ratio", 16.0), accuracies(1000, 200), 3.5).easier == pytest.approx(4.0)
    assert too_hard(budget("density", 0.04), accuracies(1000, 100), 3.5).easier == pytest.approx(0.2)


def test_of_a_short_run_the_epochs_are_blamed_first():
    short, long = (str(too_hard(budget("MAC ratio", 9.0), accuracies(1000, 880), epochs)) for epochs in (0.5, 2.0))
    assert (
        "0.5 epochs are too few to tell: give it more first (--epochs, --max-steps), then finer groups, or MAC ratio 3"
        in short
    )
    assert "next easier to try: MAC ratio 3 (in another run, or with --resume never), or more epochs, or finer" in long
    kept = {**dataclasses.asdict(too_hard(budget("MAC ratio", 9.0), accuracies(1000, 880), 2.0)), "max_steps": 6}
    del kept["epochs"]
    assert "next easier to try: MAC ratio 3" in str(TooHard.from_json(kept)), "of an earlier version"


def test_twice_the_limit_halves_the_ratio_on_its_scale():
    said = too_hard(budget("MAC ratio", 9.0), accuracies(1000, 880), 3.5)
    assert said.easier == pytest.approx(3.0)
    assert too_hard(budget("density", 0.04), accuracies(1000, 880), 3.5).easier == pytest.approx(0.2)
    assert "MAC ratio 9 is hard for this model: after recalibration 12% of the source's accuracy is gone" in str(said)
    assert too_hard(budget("MAC ratio", 1.0), accuracies(1000, 500), 3.5) is None, "which takes nothing away"


def alike(row):
    """Say whether a run is of two epochs, and of the weight of the source's features that recipes have."""
    return row["key"]["epochs"] == 2 and row.get("settings", {}).get("features", 10) == 10


def test_the_limit_parts_the_runs_of_the_benchmark():
    """What the module's docstring and docs/method.md say of them."""
    rows = [json.loads(line) for line in ABLATION.read_text().splitlines()]
    ends = [(1 - row["after recalibration"] / row["source"], row["source"] - row["after stage 2"]) for row in rows]
    within = [below for lost, below in ends if lost <= LIMIT]
    beyond = [below for lost, below in ends if lost > LIMIT]
    assert len(within) >= 5
    assert len(beyond) >= 20
    same = [end for row, end in zip(rows, ends, strict=True) if alike(row)]
    assert max(below for lost, below in same if lost <= LIMIT) < 1.65
    assert min(below for lost, below in same if lost > LIMIT) > 2.4
    assert max(within) < 3.4
    assert statistics.median(within) <= 2.1
    assert min(beyond) > 2.4
    assert sum(below > 4 for below in beyond) > 0.9 * len(beyond), "nearly all"


def test_nothing_is_said_of_what_was_not_measured():
    assert too_hard(budget("density", 0.1), {}, 3.5) is None
    assert too_hard(budget("density", 0.1), accuracies(0, 0), 3.5) is None
