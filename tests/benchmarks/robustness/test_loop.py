"""Schedules, base optimizers and the common loop: what is trained, and what is recorded."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW, Muon

from benchmarks.robustness import problems
from benchmarks.robustness.loop import plain, reading_steps, rerun, train
from benchmarks.robustness.optimizers import MuonAdamW
from benchmarks.robustness.problems import (
    CONFIRMATION,
    PROBLEMS,
    SCHEDULES,
    TUNING,
    WEIGHT_DECAY,
    held_out_loss,
    load,
    make_schedule,
    new_model,
    new_optimizer,
    parameter_groups,
    shares,
)

SHORT = replace(PROBLEMS["regression-sgd"], steps=12)
GPT = replace(PROBLEMS["gpt-0.1M-muon"], steps=4, batch_size=1)


@pytest.mark.parametrize("name", SCHEDULES)
def test_each_schedule_rises_to_its_peak_once_and_steps_to_the_end(name: str) -> None:
    found = shares(replace(SHORT, schedule=name, steps=100))
    assert len(found) == 100
    assert max(found) == pytest.approx(1.0)
    assert min(found) > 0


def test_the_schedules_by_hand() -> None:
    at = {name: shares(replace(SHORT, schedule=name, steps=100)) for name in SCHEDULES}
    assert at["cosine"][0] == 1.0
    assert at["cosine"][50] == pytest.approx(0.5)
    # Ten steps of warm-up; the cosine has the other 90.
    assert at["warmup-cosine"][:11] == pytest.approx([*(t / 10 for t in range(1, 11)), 1.0])
    assert at["warmup-cosine"][99] == pytest.approx(0.0003046, rel=1e-3)
    assert at["wsd"][9:81] == [1.0] * 72
    assert at["wsd"][80:] == pytest.approx([(100 - t) / 20 for t in range(80, 100)])
    assert at["warmup-constant"][9:] == [1.0] * 91


def test_a_schedule_sets_the_rates_of_an_optimizer_at_its_peak() -> None:
    optimizer = SGD([torch.zeros(1)], lr=7.0)
    schedule = make_schedule(optimizer, replace(SHORT, schedule="wsd", steps=10), 0.5)
    optimizer.step()
    assert optimizer.param_groups[0]["lr"] == 0.5
    schedule.step()
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_a_run_is_read_about_thirty_times_and_at_its_end() -> None:
    assert reading_steps(12) == list(range(1, 13))
    assert len(reading_steps(800)) == 30
    assert reading_steps(800)[-1] == 800


def test_what_a_plain_run_records() -> None:
    task = load(SHORT)
    outcome = plain(SHORT, task, 0.1, 0)
    assert outcome.initial == pytest.approx(held_out_loss(task, new_model(task, 0)))
    assert outcome.curve[-1] == (12, outcome.held_out)
    assert [step for step, _ in outcome.curve] == outcome.steps == reading_steps(12)
    assert outcome.lrs == pytest.approx([0.1 * share for share in shares(SHORT)])
    assert outcome.forwards == 0
    again, other = plain(SHORT, task, 0.1, 0), rerun(SHORT, task, 0.1, 0)
    assert again.held_out == outcome.held_out
    assert (other.initial, other.lrs) == (outcome.initial, outcome.lrs)
    assert other.held_out != outcome.held_out


def test_the_loop_calls_a_method_where_it_says() -> None:
    task, calls = load(SHORT), []
    model, other = new_model(task, 0), new_model(task, 1)
    optimizer = SGD(model.parameters(), lr=0.1)
    outcome = train(
        SHORT,
        task,
        0,
        model,
        optimizer,
        lambda loss: calls.append("after"),
        step=lambda loss, batch: calls.append(f"step {len(batch[0])}"),
        rate=lambda group: 3.0,
        evaluated=other,
        forwards=lambda: 5.0,
    )
    assert calls == ["step 64", "after"] * 11 + ["step 64"]
    assert outcome.held_out == held_out_loss(task, other)
    assert (outcome.lrs, outcome.forwards) == ([3.0] * 12, 5.0)


def test_the_problems_are_split_and_load_at_their_batch_size() -> None:
    assert {problem.split for problem in PROBLEMS.values()} == {TUNING, CONFIRMATION}
    assert all(name == problem.name for name, problem in PROBLEMS.items())
    assert load(PROBLEMS["gpt-0.1M-wsd"]).batch_size == 8
    assert load(PROBLEMS["gpt-0.1M"]).batch_size == 4
    assert {p.schedule for p in PROBLEMS.values()} == set(SCHEDULES)


def test_muon_takes_the_matrices_of_the_blocks_and_adamw_the_rest() -> None:
    task = load(GPT)
    model = new_model(task, 0)
    optimizer = new_optimizer(GPT, parameter_groups(GPT, task, model), 0.02)
    twin = copy.deepcopy(model)
    for one in (model, twin):
        task.loss(one, problems.global_batch(task, 0, 0)).backward()
    optimizer.step()
    hidden, others = (group["params"] for group in parameter_groups(GPT, task, twin))
    assert len(hidden) == 2 * 4
    both = {"lr": 0.02, "weight_decay": WEIGHT_DECAY}
    Muon(hidden, **both, adjust_lr_fn="match_rms_adamw").step()
    AdamW(others, **both, fused=True).step()
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)


def test_muon_resumes_from_its_state() -> None:
    task = load(GPT)
    model = new_model(task, 0)

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
        optimizer.zero_grad()
        task.loss(model, problems.global_batch(task, 0, number)).backward()
        optimizer.step()

    optimizer = MuonAdamW(parameter_groups(GPT, task, model), 0.02, 0.01)
    schedule = make_schedule(optimizer, GPT, 0.02)
    step(model, optimizer, 0)
    schedule.step()
    twin = copy.deepcopy(model)
    other = MuonAdamW(parameter_groups(GPT, task, twin), 1.0, 0.01)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for number in (1, 2):
        step(model, optimizer, number)
        step(twin, other, number)
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["gpt-0.1M-muon", "gpt-0.1M-free"])
def test_the_base_optimizers_train(name: str) -> None:
    problem = replace(PROBLEMS[name], steps=6, batch_size=1)
    if problem.optimizer == "schedule-free":
        pytest.importorskip("schedulefree")
    outcome = plain(problem, load(problem), problem.centre, 0)
    assert outcome.held_out < outcome.initial
    assert outcome.lrs[-1] > 0
