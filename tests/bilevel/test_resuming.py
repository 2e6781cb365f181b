"""A damaged state is refused in words, or harms nothing; a good one is left as it is."""

import copy
import math

import pytest
import torch

from hdet.bilevel import Rules, fixed_accuracy, hoag, maid
from tests.state_mutations import mutations, same

from .problems import quadratic, start

RUNS = {
    "maid": lambda problem, *at, **given: maid(problem, *at, **given),
    "maid, certified": lambda problem, *at, **given: maid(
        problem, *at, certify=True, rules=Rules(memory=1), **given
    ),
    "hoag": lambda problem, *at, **given: hoag(problem, *at, **given),
    "hoag, from an accuracy": lambda problem, *at, **given: hoag(
        problem, *at, accuracy=0.01, residual=0.1, step=0.1, **given
    ),
    "fixed_accuracy": lambda problem, *at, **given: fixed_accuracy(problem, *at, **given),
}


@pytest.mark.parametrize("name", RUNS)
def test_no_damage_to_a_state_gets_through(name):
    certified = name == "maid, certified"
    made = quadratic(rows=12, size=2, jacobian_norm=None)
    if not certified:
        made = quadratic(rows=12, size=2, upper_smoothness=None)
    theta, x0 = start(2)

    def run(**given):
        return RUNS[name](made.problem, theta, x0, **given)

    good = run(max_steps=1).state
    kept = copy.deepcopy(good)
    values = [float(made.f(theta)), run(max_steps=2, state=good).value]
    accepted = refused = 0
    for what, bad in mutations(good):
        given = copy.deepcopy(bad)
        error, found = None, None
        try:
            found = run(max_steps=2, state=bad)
        except ValueError as raised:
            error = str(raised)
        if found is None:
            assert f"`{name.split(',')[0]}(state=...)` got " in str(error), (what, error)
            refused += 1
        else:
            assert math.isfinite(found.value), what
            assert bool(found.theta.isfinite().all() & found.x.isfinite().all()), what
            assert found.value < 1.5 * max(values), what
            assert len(found.history) in (1, 2), what
            accepted += 1
        assert same(given, bad), what
    assert same(kept, good)
    # Those that are accepted are other good states: records of the past, for the most part.
    assert accepted < 0.15 * refused


def test_states_are_copied_both_ways():
    made, (theta, x0) = quadratic(), start()
    whole = maid(made.problem, theta, x0, max_steps=6).theta
    half = maid(made.problem, theta, x0, max_steps=3)
    half.theta.zero_()
    half.x.zero_()
    kept = copy.deepcopy(half.state)
    again = maid(made.problem, theta, x0, max_steps=6, state=half.state)
    again.theta.zero_()
    assert same(kept, half.state)
    # What a callback does to its state is nothing to the run.
    spoiled = maid(
        made.problem,
        theta,
        x0,
        max_steps=6,
        callback=lambda _, state: state["point"]["theta"].zero_(),
    )
    assert torch.equal(spoiled.theta, whole)


@pytest.mark.parametrize("formats", [{}, {"format": 1}])
def test_a_state_of_an_earlier_version_is_loaded(formats):
    made, (theta, x0) = quadratic(), start()
    state = maid(made.problem, theta, x0, max_steps=3).state
    del state["format"]
    for entries in (state["point"], *state["history"]):
        entries["length"] = entries.pop("step_size")
    again = maid(made.problem, theta, x0, max_steps=6, state=state | formats)
    assert torch.equal(again.theta, maid(made.problem, theta, x0, max_steps=6).theta)


def test_a_state_of_another_problem_is_refused_with_what_differs():
    made, (theta, x0) = quadratic(), start()
    state = maid(made.problem, theta, x0, max_steps=1).state
    with pytest.raises(ValueError, match=r"`point.theta` = .* must be of shape \(4,\)"):
        maid(made.problem, theta[:4], x0, state=state)
    with pytest.raises(ValueError, match=r"`point.theta` = .* must be of torch.float32"):
        maid(made.problem, theta.float(), x0.float(), state=state)
    with pytest.raises(ValueError, match=r"`hoag\(state=...\)` got a state without `point`"):
        hoag(made.problem, theta, x0, state={})


def test_a_run_cut_short_before_its_first_accuracy_goes_on():
    made, (theta, x0) = quadratic(), start()
    for method in (maid, hoag, fixed_accuracy):
        cut = method(made.problem, theta, x0, budget=1)
        again = method(made.problem, theta, x0, max_steps=4, state=cut.state)
        assert torch.equal(again.theta, method(made.problem, theta, x0, max_steps=4).theta)
