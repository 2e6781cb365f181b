import gc
from typing import Any

import pytest
import torch
from torch import nn

from hdet.replica.ensemble.step_hook import before_update


class Watch:
    """Notes weight and gradient at each call."""

    def __init__(self, weight):
        self.weight, self.seen = weight, []

    def look(self):
        self.seen.append((self.weight.item(), self.weight.grad.item()))


def made():
    weight = nn.Parameter(torch.tensor(2.0))
    return weight, torch.optim.SGD([weight], lr=0.5)


@pytest.mark.parametrize("how", ["plain", "by name", "in place"])
def test_it_is_called_when_the_gradients_are_there_and_the_weights_are_still_theirs(how):
    weight, optimizer = made()
    watch = Watch(weight)
    before_update(optimizer, watch.look)
    calls = []

    def closure():
        optimizer.zero_grad()
        loss = weight.square() / 2
        loss.backward()
        calls.append(loss.item())
        return loss

    for _ in range(2):
        if how == "plain":
            closure()
            assert optimizer.step() is None
        else:
            loss: Any = (
                optimizer.step(closure=closure) if how == "by name" else optimizer.step(closure)
            )
            assert loss.item() == calls[-1]
    # The gradient of w^2 / 2 is w, of which each step takes a half.
    assert watch.seen == [(2.0, 2.0), (1.0, 1.0)]
    assert calls == [2.0, 0.5]


def test_it_ends_with_its_handle_and_with_its_object():
    for end in ("handle", "object"):
        weight, optimizer = made()
        watch = Watch(weight)
        seen, handle = watch.seen, before_update(optimizer, watch.look)
        if end == "handle":
            handle.remove()
        else:
            del watch
            gc.collect()
        weight.grad = torch.tensor(1.0)
        optimizer.step()
        assert seen == []
        assert weight.item() == 1.5
