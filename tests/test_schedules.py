"""Schedules at their corners."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hetcompress.schedules import cubic, learning_rate_factor, linear, penalty_weight, stage1_share


@given(st.floats(0.0, 1.0), st.sampled_from(["cosine", "onecycle", "constant"]), st.floats(0.0, 0.9))
def test_learning_rate_stays_between_zero_and_its_maximum(progress, sched, warmup):
    assert 0 <= learning_rate_factor(progress, sched=sched, warmup=warmup) <= 1


def test_steps_fall_at_their_milestones():
    steps = [
        learning_rate_factor(t, sched="multistep", warmup=0.1, milestones=(0.3, 0.6), decay_rate=0.2)
        for t in (0.05, 0.2, 0.3, 0.59, 0.6, 1.0)
    ]
    assert steps == pytest.approx([0.5, 1, 0.2, 0.2, 0.04, 0.04])


@pytest.mark.parametrize("sched", ["cosine", "onecycle"])
def test_learning_rate_peaks_after_the_warmup_and_ends_at_zero(sched):
    assert learning_rate_factor(0.2, sched=sched, warmup=0.2) == pytest.approx(1)
    assert learning_rate_factor(1.0, sched=sched, warmup=0.2) == pytest.approx(0)
    assert learning_rate_factor(0.6, sched=sched, warmup=0.2) == pytest.approx(0.5)


def test_starts():
    assert learning_rate_factor(0.0, sched="cosine", warmup=0.1) == 0
    assert learning_rate_factor(0.0, sched="onecycle", warmup=0.1) == pytest.approx(1 / 25)
    assert learning_rate_factor(0.7, sched="constant", warmup=0.1) == 1


def test_ramps():
    assert [linear(t, 0.5) for t in (0.0, 0.25, 0.5, 1.0)] == [0, 0.5, 1, 1]
    assert linear(0.0, 0.0) == 1
    assert [cubic(t, 1.0) for t in (0.0, 0.5, 1.0)] == [0, 0.875, 1]


def test_penalty_ends_at_four_times_the_first_loss():
    assert penalty_weight(0.5, first_loss=2.0, maximum=0.5, warmup=0.5) * 0.5 == pytest.approx(4 * 2.0)
    assert penalty_weight(0.0, first_loss=2.0, maximum=0.5, warmup=0.5) == 0


def test_the_less_is_kept_the_longer_shapes_are_learned():
    assert [stage1_share(kept) for kept in (0.9, 0.5, 1 / 3, 0.2, 0.05)] == pytest.approx([0.3, 0.3, 0.4, 0.6, 0.6])
