"""What long work is at is told to one listener, or to none."""

import pytest

from hetcompress.activity import counted, listening, working


def test_nobody_listens():
    working("anything")
    assert list(counted([1, 2], "item")) == [1, 2]


def test_numbers_and_how_many():
    heard = []
    with listening(heard.append):
        working("starting")
        assert list(counted(["a", "b"], "layer")) == ["a", "b"]
        assert list(counted(iter("c"), "batch")) == ["c"]
    working("later")
    assert heard == ["starting", "layer 1 of 2", "layer 2 of 2", "batch 1"]


def test_told_when_an_item_begins_and_not_before():
    heard = []
    with listening(heard.append):
        items = counted([1, 2], "item")
        assert heard == []
        next(items)
        assert heard == ["item 1 of 2"]


def test_the_listener_before_comes_back():
    outer, inner = [], []

    def fail():
        with listening(inner.append):
            working("inner")
            raise ValueError("inside")

    with listening(outer.append):
        with pytest.raises(ValueError, match="inside"):
            fail()
        working("outer")
    assert (outer, inner) == (["outer"], ["inner"])
