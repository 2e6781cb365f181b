import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

from hdet.replica.explorer.schedule_peak import peak_factors


class Counts:
    """A callable that goes by its own calls."""

    calls = 0

    def __call__(self, step):
        self.calls += 1
        return 0.25


@pytest.mark.parametrize(
    ("function", "factor"),
    [
        (lambda t: 1.0, 1.0),
        (lambda t: 1e-2, 1e-2),  # the rate itself
        (lambda t: [0.1, 4.0, 2.0][t], 4.0),  # a list that ends
        (lambda t: min(t, 5000) / 1000, 5.0),  # a long warm-up
        (lambda t: 1.0 + t, 1.0),  # no highest one
        (lambda t: 0.0, 1.0),
        (lambda t: float("inf"), 1.0),
        (lambda t: 1 / 0, 1.0),
        (lambda t: torch.tensor(3.0), 3.0),
    ],
)
def test_the_largest_factor_of_a_function_is_found_or_taken_for_1(function, factor):
    assert peak_factors(function, 2) == [factor] * 2


def test_each_group_has_its_own_function():
    groups = [{"params": [torch.nn.Parameter(torch.ones(1))]} for _ in range(2)]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    assert peak_factors(LambdaLR(optimizer, [lambda t: 0.5, lambda t: 2.0]), 2) == [0.5, 2.0]


def test_looking_ahead_calls_a_copy():
    function = Counts()
    assert peak_factors(function, 1) == [0.25]
    assert function.calls == 0


def test_of_other_schedulers_the_base_rate_is_the_highest():
    assert peak_factors(None, 3) == [1.0] * 3
