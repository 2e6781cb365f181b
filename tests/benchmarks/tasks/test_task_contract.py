"""What every task promises, on its own data where present and on stand-ins always.

A new task joins by one line in `TASKS`, and one in `STAND_INS` if it takes a path.
"""

import random
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.core.failures import MissingDataError
from benchmarks.tasks import TASKS, Task, get_task
from hdet.seeding import generator

# Fine-tuning needs a pretrained model first: its own test has that with a short one. The large
# GPT is the small one's class.
NAMES = [name for name in TASKS if not name.startswith("finetune") and name != "gpt-1M"]
STAND_INS = {"text": "text_folder", "fashion": "image_folder", "movielens": "u_data"}


@pytest.fixture(params=[*NAMES, *(f"{name} (stand-in)" for name in STAND_INS)])
def task(request: pytest.FixtureRequest) -> Task:
    name, _, stand_in = request.param.partition(" ")
    if stand_in:
        return get_task(name, request.getfixturevalue(STAND_INS[name]))
    try:
        return get_task(name)
    except MissingDataError as error:
        pytest.skip(str(error))


def same(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def mean_held_out(task: Task, model: nn.Module) -> float:
    with torch.no_grad():
        losses = [task.loss(model, batch).item() for batch in task.held_out()]
    return sum(losses) / len(losses)


def train(task: Task, steps: int) -> nn.Module:
    model = task.model(generator(0, "model"))
    optimizer = torch.optim.AdamW(task.groups(model), lr=task.low_lr)
    for step in range(steps):
        for rank in range(2):
            task.loss(model, task.batch(0, step, rank, 2)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def test_groups_cover_each_parameter_once_and_see_through_a_wrapper(task):
    assert task.title
    assert task.high_lr == pytest.approx(9 * task.low_lr)
    model = task.model(generator(0))
    groups = task.groups(model)
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())
    assert len({group["name"] for group in groups}) == len(groups)
    for group in groups:
        vectors = {parameter.ndim == 1 for parameter in group["params"]}
        assert vectors == {group["name"] == "no_decay"}
        assert (group.get("weight_decay") == 0.0) == (group["name"] == "no_decay")
    wrapped = nn.Module()
    wrapped.add_module("module", model)
    assert [id(p) for group in task.groups(wrapped) for p in group["params"]] == grouped


def test_the_loss_is_a_finite_scalar_that_reaches_each_parameter(task):
    model = task.model(generator(0))
    loss = task.loss(model, task.batch(0, 0, 0, 2))
    assert loss.shape == ()
    assert torch.isfinite(loss)
    loss.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_a_batch_is_a_function_of_its_address(task):
    addresses = [(0, step, rank, 2) for step in range(3) for rank in range(2)]
    there = [task.batch(*address) for address in addresses]
    back = [task.batch(*address) for address in reversed(addresses)][::-1]
    assert all(same(one, other) for one, other in zip(there, back, strict=True))
    assert all(len(column) == task.batch_size for batch in there for column in batch)
    assert not any(same(one, other) for one, other in combinations(there, 2))
    # MovieLens is in the order of time, whatever the seed.
    assert same(there[0], task.batch(1, 0, 0, 2)) == (task.name == "movielens")


def test_weights_come_from_the_generator_and_global_ones_are_left_alone(task):
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002  # pyright: ignore[reportArgumentType]
    first, again, other = (task.model(generator(seed)).state_dict() for seed in (0, 0, 1))
    task.batch(0, 0, 0, 2)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    assert (before[2] == np.random.get_state()[1]).all()  # noqa: NPY002  # pyright: ignore[reportArgumentType]
    assert same(first.values(), again.values())
    assert not same(first.values(), other.values())


def test_a_short_run_lowers_the_held_out_loss_and_repeats_exactly(task):
    first, second = train(task, 30), train(task, 30)
    assert same(first.parameters(), second.parameters())
    fresh = task.model(generator(0, "model"))
    assert mean_held_out(task, first) < 0.97 * mean_held_out(task, fresh)


def test_held_out_batches_are_fixed_and_of_one_size(task):
    once, again = task.held_out(), task.held_out()
    assert len(once) > 1
    assert len({len(column) for batch in once for column in batch}) == 1
    assert all(same(one, other) for one, other in zip(once, again, strict=True))


def test_the_stream_ends_with_an_error_that_says_where(task):
    steps = task.max_steps(2)
    if steps is None:
        task.batch(0, 10**9, 0, 2)
        return
    assert task.max_steps(4) == steps // 2
    task.batch(0, steps - 1, 1, 2)
    with pytest.raises(IndexError, match=f"last {steps} steps"):
        task.batch(0, steps, 0, 2)
    with pytest.raises(IndexError, match="step -1"):
        task.batch(0, -1, 0, 2)


def test_unknown_tasks_are_refused_by_name():
    with pytest.raises(ValueError, match=r"no task 'imagenet'.*digits.*text"):
        get_task("imagenet")


@pytest.mark.parametrize("name", ["digits", "teacher", "regression", "embedding"])
def test_a_path_is_refused_by_tasks_without_files(name, tmp_path):
    with pytest.raises(ValueError, match=f"`{name}` takes no data"):
        get_task(name, tmp_path)
