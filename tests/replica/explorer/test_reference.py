import copy

import torch

from hdet.replica.explorer import reference as explorer_reference
from tests.helpers import loss_at, small_model, weights


def test_with_nothing_to_explore_it_is_plain_training_at_any_rate():
    def shared(model, step, _):
        return loss_at(model, step, 0)

    model = small_model()
    # A rate at which the loss rises and falls: nothing is rolled back.
    trace = explorer_reference.train(
        model,
        lambda m: torch.optim.SGD(m.parameters(), 0.9),
        None,
        shared,
        None,
        explore=lambda _: [],
        replicas=2,
        total_steps=60,
        T=3,
    )
    plain = copy.deepcopy(model)
    optimizer = torch.optim.SGD(plain.parameters(), 0.9)
    for t in range(60):
        optimizer.zero_grad()
        loss_at(plain, t, 0).backward()
        optimizer.step()
    assert trace.rollbacks == 0
    assert all(map(torch.equal, weights(trace.models[0]), weights(plain)))
