"""The gain of sharing gradients, on real ranks whose gradients are set by hand."""

import math

import pytest
import torch
import torch.distributed as dist
from torch import nn

from hdet.replica.ensemble.gradient_gain import GradientGain
from hdet.replica.ensemble.meshes import find_replicas
from tests.rank_runner import run_ranks

pytestmark = pytest.mark.ranks


def made(dtype=torch.float64):
    """Return parameters of two shapes, an optimizer of both, and what looks at its next."""
    parameters = [nn.Parameter(torch.ones(2, 3, dtype=dtype)), nn.Parameter(torch.ones(4))]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    return parameters, optimizer, GradientGain(optimizer, find_replicas([], "Explorer"))


def near(pair, own, shared):
    assert pair == pytest.approx((own, shared), rel=1e-6)


def see_both_norms(rank):
    # Gradients of 1 and 3 in six elements, of 2 and 0 in four: squared norms of 6 + 16 = 22 and
    # 54, a mean of 38; their mean is 2 and 1, a squared norm of 24 + 4 = 28.
    parameters, optimizer, gain = made()
    parameters[0].grad = torch.full((2, 3), [1.0, 3.0][rank], dtype=torch.float64)
    parameters[1].grad = torch.full((4,), 2.0) if rank == 0 else None  # not used on the other
    kept = parameters[0].grad.clone()
    optimizer.step()
    assert torch.equal(parameters[0].grad, kept)
    optimizer.zero_grad()
    near(gain.read(), 38.0, 28.0)
    # Once it is read nothing is looked at, nor held.
    parameters[0].grad = torch.ones_like(parameters[0])
    optimizer.step()
    assert not gain._own
    assert not optimizer._optimizer_step_pre_hooks


def see_the_first_step_alone(rank):
    parameters, optimizer, gain = made()
    for size in (1.0, 100.0):
        parameters[0].grad = torch.full_like(parameters[0], size)
        optimizer.step()
    near(gain.read(), 6.0, 6.0)


def see_inside_a_closure(rank):
    parameters, optimizer, gain = made()

    def closure():
        optimizer.zero_grad()
        loss = [1.0, -1.0][rank] * parameters[0].sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    own, shared = gain.read()
    assert own == pytest.approx(6.0)
    assert shared == 0.0


def see_half_precision(rank):
    parameters, optimizer, gain = made(torch.bfloat16)
    parameters[0].grad = torch.full_like(parameters[0], [2.0, 4.0][rank])
    optimizer.step()
    near(gain.read(), 60.0, 54.0)


def miss_a_step(rank):
    parameters, optimizer, gain = made()
    parameters[0].grad = torch.ones_like(parameters[0])
    if rank == 1:
        optimizer.step()  # as where a GradScaler skips the other's
    assert all(map(math.isnan, gain.read()))


def meet_a_gradient_that_is_not_finite(rank):
    parameters, optimizer, gain = made()
    parameters[0].grad = torch.full_like(parameters[0], math.inf if rank else 1.0)
    optimizer.step()
    assert all(map(math.isnan, gain.read()))
    dist.barrier()


CASES = [
    see_both_norms,
    see_the_first_step_alone,
    see_inside_a_closure,
    see_half_precision,
    miss_a_step,
    meet_a_gradient_that_is_not_finite,
]


def each_case():
    for case in CASES:
        case(dist.get_rank())


def test_it_is_the_mean_squared_norm_and_that_of_the_mean():
    run_ranks(each_case, 2)
