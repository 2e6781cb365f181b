"""The four problems are what they say: seeded, with constants that hold, tested elsewhere."""

import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd.functional import hessian

from benchmarks.bilevel.methods import PROTOTYPES
from benchmarks.bilevel.tasks import TASKS, Task, crops
from benchmarks.core.failures import MissingDataError
from hdet.bilevel import Status
from hdet.seeding import generator


@pytest.fixture(scope="module", params=list(TASKS))
def task(request: pytest.FixtureRequest) -> Task:
    return TASKS[request.param](0)


def hessian_product(function: Callable[[Tensor], Tensor], x: Tensor, v: Tensor) -> Tensor:
    at = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(at).sum(), at, create_graph=True)
    (product,) = torch.autograd.grad(gradient, at, v)
    return product


def near(x: Tensor) -> Tensor:
    return x + 0.1 * torch.randn(x.shape, generator=generator(0, "near"), dtype=x.dtype)


def test_a_seed_gives_the_same_problem_and_another_gives_another(task: Task) -> None:
    x = near(task.x0)
    again, other = TASKS[task.name](0), TASKS[task.name](1)
    here = [task.problem.upper(x), task.problem.lower(x, task.theta0)]
    assert all(
        map(torch.equal, here, [again.problem.upper(x), again.problem.lower(x, again.theta0)])
    )
    assert not torch.equal(other.problem.upper(x), here[0])


def test_both_levels_curve_as_their_constants_say(task: Task) -> None:
    x, mu = near(task.x0), task.problem.strong_convexity(task.theta0)
    draw = generator(0, "directions")
    # A cross entropy does not curve where all classes move alike: the first direction.
    for v in (torch.ones_like(x), *(torch.randn(x.shape, generator=draw) for _ in range(3))):
        v = v.to(x.dtype)
        lower = lambda x: (
            task.problem.lower(x, task.theta0).sum() + task.problem.ridge / 2 * x.square().sum()
        )
        product = hessian_product(lower, x, v)
        assert float((product * v).sum()) >= mu * float(v.square().sum()) * (1 - 1e-9)
        if (smoothness := task.problem.upper_smoothness) is not None:
            product = hessian_product(task.problem.upper, x, v)
            assert float(product.norm() / v.norm()) <= smoothness * (1 + 1e-9)


def test_the_quadratics_constants_are_exact() -> None:
    task = TASKS["quadratic"](0)
    problem = task.problem
    lower = hessian(lambda x: problem.lower(x, task.theta0), task.x0)
    upper = hessian(problem.upper, task.x0)
    mu = problem.strong_convexity(task.theta0)
    mixed = hessian(problem.lower, (task.x0, task.theta0))[0][1]
    assert float(torch.linalg.eigvalsh(lower)[0]) == pytest.approx(mu)
    assert float(torch.linalg.eigvalsh(upper)[-1]) == pytest.approx(problem.upper_smoothness)
    assert float(torch.linalg.matrix_norm(mixed, 2)) == pytest.approx(problem.jacobian_norm)
    assert problem.certified


def test_results_are_evaluated_at_the_exact_solution() -> None:
    task = TASKS["quadratic"](0)
    lower = lambda x: task.problem.lower(x, task.theta0)
    zero = torch.zeros_like(task.x0).requires_grad_()
    (gradient,) = torch.autograd.grad(lower(zero), zero)
    exact = torch.linalg.solve(hessian(lower, task.x0), -gradient)
    found = task.evaluate(task.theta0, task.x0)
    assert found["loss"] == pytest.approx(float(task.problem.upper(exact)))


@pytest.mark.parametrize("name", ["tv", "foe"])
def test_what_tests_is_not_what_was_learned_from(name: str) -> None:
    task = TASKS[name](0)
    clean, noisy, test_clean, test_noisy = crops(len(task.x0), 32, 0)
    assert torch.equal(task.x0, noisy)
    # g is half the squared distance to the clean images that are learned from.
    assert float(task.problem.upper(clean).max()) == 0
    for shift in range(len(clean)):
        assert float(task.problem.upper(test_clean.roll(shift, 0)).min()) > 0.5
    assert float((test_noisy - test_clean).std()) == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize(
    ("name", "module"),
    [("logistic", "sklearn.datasets"), ("tv", "skimage"), ("foe", "skimage")],
)
def test_data_that_are_missing_name_what_to_install(
    name: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDataError, match="pip install scikit-"):
        TASKS[name](0)


@pytest.mark.parametrize("accuracy", [1e-1, 1e-3, 1e-5])
def test_certified_on_the_quadratic_no_search_fails(accuracy: float) -> None:
    task = TASKS["quadratic"](0)
    certified = PROTOTYPES["certified"].call
    result = certified(task, accuracy=accuracy, max_steps=10_000, budget=2000)
    assert result.status is Status.BUDGET
    assert result.failed_searches == 0
    assert len(result.history) > 20
