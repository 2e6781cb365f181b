"""FedHyper-CL: equation (20) by hand, its sign, caps, and what is refused."""

import math

import pytest
import torch

from hdet.federated import ClientLocalRate
from hdet.federated.client_rate import next_rate
from hdet.federated.vectors import inner

LITERAL = {"gamma": 1e6, "growth": math.inf}


def test_the_first_step_is_at_beta_zero():
    rate = ClientLocalRate(0.01, 5, previous_update=torch.ones(2))
    assert rate.update(torch.ones(2)) == 0.01


def test_equation_20_by_hand():
    update = torch.tensor([-0.5, 0.25], dtype=torch.float64)
    rate = ClientLocalRate(0.1, 4, previous_update=update, **LITERAL)
    g0, g1, g2 = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.2, -0.4]], dtype=torch.float64)
    rate.update(g0)
    # <g1, g0> = 0.5; Delta = -update, <g1, Delta> / 4 = (0.25 - 0.125) / 4.
    assert rate.update(g1) == pytest.approx(0.1 + 0.5 + 0.03125)
    # <g2, g1> = -0.1; <g2, Delta> / 4 = (0.1 + 0.1) / 4.
    assert rate.update(g2) == pytest.approx(0.63125 - 0.1 + 0.05)


def test_going_where_the_server_went_raises_and_turning_back_lowers():
    # The last round moved the weights along +1, so its gradients pointed to -1.
    update, steady = torch.tensor([1.0]), torch.tensor([0.0])
    for gradient, sign in ((-0.1, 1), (0.1, -1)):
        rate = ClientLocalRate(0.1, 1, previous_update=update, **LITERAL)
        rate.update(steady)
        assert (rate.update(torch.tensor([gradient])) - 0.1) * sign > 0


def test_without_a_previous_update_it_is_equation_19():
    rate = ClientLocalRate(0.1, 4, **LITERAL)
    rate.update(torch.tensor([0.5]))
    assert rate.update(torch.tensor([0.2])) == pytest.approx(0.2)


def test_one_step_changes_the_rate_by_a_factor_at_most_either_way():
    rate = ClientLocalRate(0.1, 4, growth=1.25)
    gradient = torch.tensor([3.0])
    rate.update(gradient)
    assert rate.update(gradient) == pytest.approx(0.125)
    assert rate.update(-gradient) == pytest.approx(0.1)


def test_bounds_are_relative_and_absolute():
    gradient = torch.tensor([3.0])
    rate = ClientLocalRate(0.1, 4, growth=math.inf)
    rate.update(gradient)
    assert rate.update(gradient) == pytest.approx(1.0)
    assert rate.update(-gradient) == pytest.approx(0.01)
    capped = ClientLocalRate(0.1, 4, growth=math.inf, beta_max=0.3)
    capped.update(gradient)
    assert capped.update(gradient) == pytest.approx(0.3)


def test_gamma_one_holds_the_rate():
    rate = ClientLocalRate(0.07, 3, gamma=1.0, previous_update=torch.ones(2))
    for gradient in torch.randn(5, 2, generator=torch.Generator().manual_seed(0)):
        assert rate.update(gradient) == 0.07


def test_a_batch_of_clients_is_each_client():
    draws = torch.Generator().manual_seed(1)
    g, previous = torch.randn(2, 6, 40, generator=draws)
    beta = torch.rand(6, generator=draws, dtype=torch.float64)
    pull = torch.randn(6, generator=draws, dtype=torch.float64)
    product = inner(g, previous) + pull
    together = next_rate(beta, product, 0.2, 0.9, 1.3)
    for i in range(6):
        alone = next_rate(beta[i], inner(g[i], previous[i]) + pull[i], 0.2, 0.9, 1.3)
        assert float(together[i]) == pytest.approx(float(alone), rel=1e-14)


def test_a_refused_gradient_changes_nothing():
    rate = ClientLocalRate(0.1, 4)
    rate.update(torch.ones(2))
    rate.update(torch.ones(2))
    before = rate.beta
    for bad in (torch.tensor([math.nan, 1.0]), torch.ones(3)):
        with pytest.raises(ValueError, match=r"ClientLocalRate\.update\(gradient="):
            rate.update(bad)
    assert rate.beta == before
    assert rate.update(torch.ones(2)) == pytest.approx(before * 1.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beta": -1.0, "steps": 3}, "beta=-1.0.*above 0"),
        ({"beta": 0.1, "steps": 0}, "steps=0.*at least 1"),
        ({"beta": 0.1, "steps": 3, "gamma": 0.9}, "gamma=0.9.*at least 1"),
        ({"beta": 0.1, "steps": 3, "growth": 1.0}, "growth=1.0.*above 1"),
        (
            {"beta": 0.1, "steps": 3, "beta_max": 0.05},
            "beta_max=0.05.*at least 0.1",
        ),
    ],
)
def test_bad_arguments_are_refused_in_words(arguments, message):
    with pytest.raises(ValueError, match=message):
        ClientLocalRate(**arguments)


def test_gradients_must_be_as_long_as_the_update():
    rate = ClientLocalRate(0.1, 3, previous_update=torch.ones(4))
    with pytest.raises(ValueError, match="must have 4 entries, as before"):
        rate.update(torch.ones(3))
