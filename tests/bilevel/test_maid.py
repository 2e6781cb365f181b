"""MAID goes down in the exact f, whatever it starts with, and says why it stops."""

import math

import pytest
import torch

from hdet.bilevel import Problem, Rules, Status, maid

from .problems import denoising, quadratic, start

F64 = torch.float64
STARTS = pytest.mark.parametrize("accuracy", [None, 1e-1, 1e-5])


def visited(made, **given):
    """Run on a quadratic; return the result and the exact f at every point."""
    theta, x0 = start()
    points = [theta]
    result = maid(
        made.problem,
        theta,
        x0,
        callback=lambda step, state: points.append(state["point"]["theta"]),
        **given,
    )
    return result, [float(made.f(point)) for point in points]


@STARTS
@pytest.mark.parametrize("certify", [True, False])
@pytest.mark.parametrize("rules", [Rules(memory=1), Rules.paper()], ids=["ours", "paper"])
def test_the_exact_f_falls_at_every_step(accuracy, certify, rules):
    result, values = visited(
        quadratic(), accuracy=accuracy, certify=certify, rules=rules, max_steps=20
    )
    assert len(values) == 21
    for before, after, step in zip(values, values[1:], result.history, strict=False):
        assert after <= before - 0.1 * step.step_size * step.norm**2 + 1e-9 * before
        assert after <= step.bound * (1 + 1e-9)


@STARTS
@pytest.mark.parametrize("rules", [Rules(), Rules.paper()], ids=["ours", "paper"])
def test_certified_no_search_fails(accuracy, rules):
    result, _ = visited(quadratic(), accuracy=accuracy, certify=True, rules=rules, max_steps=30)
    assert result.failed_searches == 0
    assert all(step.error_bound <= 0.5 * step.norm for step in result.history)


def test_with_long_steps_it_comes_to_the_minimum():
    made = quadratic(rows=40, size=3, seed=2)
    rules = Rules(memory=10)
    theta, x0 = start(3)
    result = maid(made.problem, theta, x0, rules=rules, max_steps=200, tolerance=1e-4)
    assert result.status is Status.GRADIENT_TOLERANCE
    assert float(made.gradient(result.theta).norm()) < 1e-3
    assert result.value == pytest.approx(float(made.f(result.theta)), rel=1e-3)


def test_the_memory_lets_f_rise_but_not_above_the_highest_of_it():
    result, values = visited(quadratic(), max_steps=60, certify=False)
    highest = [max(values[max(0, k - 4) : k + 1]) for k in range(len(values) - 1)]
    assert all(after <= top for after, top in zip(values[1:], highest, strict=True))
    assert any(after > before for before, after in zip(values, values[1:], strict=False))
    assert len(result.history) == 60


def test_accuracy_follows_the_step_whatever_it_began_with():
    ends = []
    for accuracy in (1e-1, 1e-5):
        result, _ = visited(quadratic(), accuracy=accuracy, certify=False, max_steps=30)
        ends.append([step.accuracy for step in result.history])
    loose, tight = ends
    assert loose[0] / tight[0] > 100
    assert 0.1 < math.prod(loose[-10:]) ** 0.1 / math.prod(tight[-10:]) ** 0.1 < 10


def test_a_search_that_the_gap_makes_hopeless_is_given_up_at_once():
    trials = {}
    for rules in (Rules(), Rules.paper()):
        result, _ = visited(quadratic(), accuracy=10.0, rules=rules, certify=False, max_steps=1)
        (first,) = result.history
        assert result.failed_searches == first.refinements > 0
        trials[rules] = first.trials
    assert trials[Rules.paper()] >= 10 * first.refinements
    assert trials[Rules()] < trials[Rules.paper()] / 2


def test_no_search_begins_farther_than_a_part_of_theta():
    made, (theta, x0) = quadratic(), start()
    points = [theta]
    maid(
        made.problem,
        theta,
        x0,
        max_steps=30,
        callback=lambda step, state: points.append(state["point"]["theta"]),
    )
    for before, after in zip(points[1:], points[2:], strict=False):
        assert float((after - before).norm()) <= 0.3 * max(float(before.norm()), 1.0) + 1e-9


def test_runs_repeat_exactly_and_leave_the_global_generator_alone():
    before = torch.get_rng_state().clone()
    runs = [visited(quadratic(), accuracy=1e-2, max_steps=10)[0] for _ in range(2)]
    assert torch.equal(runs[0].theta, runs[1].theta)
    assert runs[0].history == runs[1].history
    assert torch.equal(before, torch.get_rng_state())


def test_theta_goes_from_hand_to_hand_and_is_kept_nowhere():
    made, (theta, x0) = quadratic(), start()
    alone = maid(made.problem, theta, x0, max_steps=5)
    other = []

    def meanwhile(step, state):
        # Another run of the same problem, from elsewhere, between two steps of this one.
        other.append(maid(made.problem, -3 * theta, x0, max_steps=2).value)

    crossed = maid(made.problem, theta, x0, max_steps=5, callback=meanwhile)
    assert torch.equal(alone.theta, crossed.theta)
    assert len(set(other)) == 1


def test_a_start_that_is_far_too_inexact_is_tightened():
    result, _ = visited(quadratic(), accuracy=100.0, certify=False, max_steps=5)
    assert result.history[0].refinements > 0
    assert result.history[-1].accuracy < 100.0


def test_on_signals_it_comes_to_the_same_from_loose_and_tight_starts():
    problem, theta, noisy = denoising()
    values = [
        maid(problem, theta, noisy, accuracy=accuracy, max_steps=25).value
        for accuracy in (1e-1, 1e-5)
    ]
    assert values[0] == pytest.approx(values[1], rel=0.01)
    first = maid(problem, theta, noisy, max_steps=1)
    assert values[0] < first.history[0].value


@pytest.mark.parametrize("certify", [True, False])
def test_resumed_from_any_step_it_is_the_same_run_bit_for_bit(certify):
    made, (theta, x0) = quadratic(jacobian_norm=None, upper_smoothness=None), start()
    problem = made.problem if not certify else quadratic(jacobian_norm=None).problem
    states = []
    whole = maid(
        problem, theta, x0, max_steps=12, callback=lambda step, state: states.append(state)
    )
    assert problem.certified is certify
    for at in (0, 4, 10):
        again = maid(problem, theta, x0, max_steps=12, state=states[at])
        assert torch.equal(again.theta, whole.theta)
        assert torch.equal(again.x, whole.x)
        assert [step.bound for step in again.history] == [step.bound for step in whole.history]
        # The gradient where it goes on.
        assert again.counts.cost == whole.counts.cost + 1


def test_a_state_survives_a_file(tmp_path):
    made, (theta, x0) = quadratic(), start()
    half = maid(made.problem, theta, x0, max_steps=5)
    torch.save(half.state, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    again = maid(made.problem, theta, x0, max_steps=10, state=state)
    assert torch.equal(again.theta, maid(made.problem, theta, x0, max_steps=10).theta)


def test_the_budget_is_kept_and_what_was_cut_short_is_done_again():
    made, (theta, x0) = quadratic(), start()
    cut = maid(made.problem, theta, x0, max_steps=50, budget=300)
    assert cut.status is Status.BUDGET
    assert cut.counts.cost == 300
    assert cut.history[-1].cost <= 300
    on = maid(made.problem, theta, x0, max_steps=50, state=cut.state)
    assert torch.equal(on.theta, maid(made.problem, theta, x0, max_steps=50).theta)


def test_a_budget_for_nothing_returns_the_start():
    made, (theta, x0) = quadratic(), start()
    result = maid(made.problem, theta, x0, budget=1)
    assert result.status is Status.BUDGET
    assert torch.equal(result.theta, theta)
    assert result.history == []


def test_counts_are_those_of_calls(monkeypatch):
    calls = {"lower": 0, "derivatives": 0}
    made, (theta, x0) = quadratic(), start()
    grad = torch.autograd.grad

    def lower(x, t):
        calls["lower"] += 1
        return made.problem.lower(x, t)

    def counted(*args, **kwargs):
        calls["derivatives"] += 1
        return grad(*args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    problem = Problem(made.problem.upper, lower, mu=made.problem.mu, upper_smoothness=100.0)
    result = maid(problem, theta, x0, max_steps=5)
    assert result.counts.gradients == calls["lower"]
    assert result.counts.cost + result.counts.upper_gradients == calls["derivatives"]
    assert result.counts.cost == result.history[-1].cost


def test_single_precision_ends_at_its_floor():
    made = quadratic(rows=40, size=3, seed=2)
    a1, a2, a3, b1, b2 = (t.float() for t in (made.a1, made.a2, made.a3, made.b1, made.b2))
    problem = Problem(
        lambda x: (a1 @ x - b1).square().sum() / 2,
        lambda x, t: (a2 @ x + a3 @ t - b2).square().sum() / 2,
        # A bound that rounding does not contradict.
        ridge=0.01,
        upper_convex=True,
    )
    theta, x0 = (tensor.float() for tensor in start(3))
    result = maid(problem, theta, x0, max_steps=1000)
    assert result.status is Status.ACCURACY_FLOOR
    assert "float64" in result.message
    assert result.theta.dtype == torch.float32
    assert result.value < 0.1 * result.history[0].value


def test_a_flat_upper_level_is_at_its_minimum():
    made, (theta, x0) = quadratic(), start()
    problem = Problem(lambda x: 0 * x.sum(), made.problem.lower, mu=made.problem.mu)
    result = maid(problem, theta, x0)
    assert (result.status, len(result.history)) == (Status.GRADIENT_TOLERANCE, 0)


def test_a_trial_beyond_what_is_finite_is_only_a_refused_one():
    problem = Problem(
        lambda x: (x - 3).square().sum(),
        lambda x, theta: (x - theta.exp()).square().sum() / 2,
        mu=1.0,
    )
    theta, x0 = torch.zeros(1, dtype=F64), torch.zeros(1, dtype=F64)
    result = maid(problem, theta, x0, step=1e6, max_steps=25)
    assert float(result.theta) == pytest.approx(math.log(3), abs=1e-3)
    assert result.history[0].trials > 5


def test_a_solver_that_gives_up_ends_the_run_with_the_remedy():
    problem, theta, noisy = denoising()
    result = maid(problem, theta, noisy, accuracy=1e-9, max_iterations=1)
    assert result.status is Status.LOWER_LEVEL
    assert "raise `max_iterations`" in result.message


def test_a_search_that_may_not_refine_ends_the_run():
    rules = Rules(refinements=0, trials=2)
    result, _ = visited(quadratic(), accuracy=50.0, certify=False, rules=rules)
    assert result.status is Status.LINE_SEARCH
    assert result.failed_searches == 1


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"accuracy": -1.0}, r"maid\(accuracy=-1.0\)` must be finite and above 0"),
        ({"step": 0.0}, r"maid\(step=0.0\)` must be finite and above 0"),
        ({"max_steps": 0}, r"max_steps=0\)` must be a whole number of at least 1"),
        ({"max_steps": math.inf}, r"max_steps=inf\)` must be a whole number of at least 1"),
        (
            {"max_iterations": 2.5},
            r"max_iterations=2.5\)` must be a whole number of at least 1",
        ),
        ({"step": math.nan}, r"step=nan\)` must be finite and above 0"),
        ({"residual": math.inf}, r"residual=inf\)` must be finite and above 0"),
        ({"accuracy": "small"}, r"accuracy='small'\)` must be finite and above 0"),
        ({"tolerance": math.nan}, r"tolerance=nan\)` must be finite and at least 0"),
        ({"rules": {"memory": 1}}, r"rules={'memory': 1}\)` must be None or Rules"),
        ({"callback": 3}, r"callback=3\)` must be None or a function"),
        ({"budget": 0}, r"budget=0\)` must be a whole number of at least 1"),
        ({"tolerance": -1.0}, r"tolerance=-1.0\)` must be finite and at least 0"),
        ({"solver": "adam"}, r"solver='adam'\)` must be \"newton-cg\", \"lbfgs\" or"),
    ],
)
def test_bad_arguments_are_refused(given, words):
    made, (theta, x0) = quadratic(), start()
    with pytest.raises(ValueError, match=words):
        maid(made.problem, theta, x0, **given)


def test_nothing_is_certified_without_constants():
    made, (theta, x0) = quadratic(jacobian_lipschitz=None), start()
    with pytest.raises(ValueError, match=r"maid\(certify=True\)` needs all constants"):
        maid(made.problem, theta, x0, certify=True)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"shrink": 1.0}, r"Rules\(shrink=1.0\)` must lie in \(0, 1\): the default is 0.5"),
        ({"grow": 0.9}, "must be finite and at least 1"),
        ({"tighten": 0.0}, r"must lie in \(0, 1\]"),
        ({"decrease": 0.6}, r"must lie in \(0, 0.5\): lambda lies below eta=0.5"),
        ({"trials": 0}, "must be a whole number of at least 1"),
        ({"memory": 0}, "must be a whole number of at least 1"),
        ({"memory": 2.5}, "must be a whole number of at least 1"),
        ({"refinements": math.inf}, "must be a whole number of at least 0"),
        ({"trials": math.nan}, "must be a whole number of at least 1"),
        ({"grow": math.inf}, "must be finite and at least 1"),
        ({"relax": math.nan}, "must be finite and at least 1"),
        ({"eta": "half"}, r"must lie in \(0, 1\)"),
        (
            {"share": 1.5},
            r"Rules\(share=1.5\)` must lie in \(0, 1\): the default is 0.1",
        ),
    ],
)
def test_bad_rules_are_refused(given, words):
    with pytest.raises(ValueError, match=words):
        Rules(**given)
