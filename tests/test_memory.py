"""What only a cycle holds is given back."""

import gc
import weakref

from torch import nn

from hetcompress.memory import release


def test_a_cycle_is_collected():
    model = nn.Linear(2, 2)
    model.itself = [model]
    alive = weakref.ref(model)
    gc.disable()
    try:
        del model
        assert alive() is not None, "nothing else collects it meanwhile"
        release()
    finally:
        gc.enable()
    assert alive() is None
