"""What only a cycle holds is given back."""

import weakref

from torch import nn

from hetcompress.memory import release


def test_a_cycle_is_collected():
    model = nn.Linear(2, 2)
    model.itself = [model]
    alive = weakref.ref(model)
    del model
    release()
    assert alive() is None
