"""A row of the batched engine is a real run, replicas share gradients, rules may go back."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from benchmarks.robustness import loop
from benchmarks.robustness.engine import Engine, Plain, Row, State, run
from benchmarks.robustness.problems import PROBLEMS, Problem, load
from benchmarks.tasks import Task
from benchmarks.tasks.regression import RegressionTask

STEPS = 20
ADAMW = replace(PROBLEMS["teacher-adamw"], steps=STEPS)
SGD = replace(PROBLEMS["regression-sgd"], steps=STEPS)
EMBEDDING = replace(PROBLEMS["embedding-adamw"], steps=STEPS, schedule="wsd", batch_size=8)
GPT = replace(PROBLEMS["gpt-0.1M"], steps=8, schedule="warmup-cosine", batch_size=1)
NGRAM = replace(PROBLEMS["ngram-adamw"], steps=STEPS, batch_size=4)


class Doubled:
    """A task in float64: what differs by more than rounding is a fault."""

    def __init__(self, task: Task) -> None:
        self.task, self.name, self.loss, self.groups = task, task.name, task.loss, task.groups

    def model(self, generator: torch.Generator) -> torch.nn.Module:
        return self.task.model(generator).double()

    def batch(self, *address: int) -> tuple[Tensor, ...]:
        return tuple(
            c.double() if c.is_floating_point() else c for c in self.task.batch(*address)
        )

    def held_out(self) -> list[tuple[Tensor, ...]]:
        return [
            tuple(c.double() if c.is_floating_point() else c for c in batch)
            for batch in self.task.held_out()[:1]
        ]


def doubled(problem: Problem) -> Task:
    return Doubled(load(problem))  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize("problem", [ADAMW, SGD, EMBEDDING, GPT, NGRAM], ids=lambda p: p.name)
def test_a_plain_row_is_a_real_run(problem: Problem) -> None:
    task = doubled(problem)
    rows = [Row(3 * problem.centre, 0, 0), Row(problem.centre, 1, 1), Row(problem.centre, 0, 7)]
    found = run(Engine(problem, task, dtype=torch.float64), rows)
    for row, outcome in zip(rows[1:], found[1:], strict=True):
        real = loop.plain(problem, task, row.rate, row.seed, row.data_seed)
        assert outcome.initial == pytest.approx(real.initial, rel=1e-9)
        assert outcome.steps == real.steps
        assert outcome.lrs == pytest.approx(real.lrs, rel=1e-9)
        for (step, loss), (same, expected) in zip(outcome.curve, real.curve, strict=True):
            assert (step, loss) == (same, pytest.approx(expected, rel=1e-7))
        assert outcome.held_out == outcome.curve[-1][1]


def test_replicas_at_one_rate_are_plain_ddp() -> None:
    task = doubled(SGD)
    engine, row = Engine(SGD, task, dtype=torch.float64), Row(SGD.centre, 0, 0)
    (alone,), (four,) = run(engine, [row]), run(engine, [row], replicas=4)
    assert four.held_out == pytest.approx(alone.held_out, rel=1e-9)


class Deviating(Plain):
    """Two replicas at half and twice the rate, averaged after each step."""

    def begin(self, state: State, peaks: Tensor) -> None:
        super().begin(state, peaks)
        self.state, self.seen = state, []

    def rates(
        self, t: int, share: float, grads: Tensor, updates: Tensor, losses: Tensor
    ) -> Tensor:
        self.seen.append((tuple(grads.shape), tuple(updates.shape), tuple(losses.shape)))
        self.state.average()
        return super().rates(t, share, grads, updates, losses) * torch.tensor([0.5, 1.5])


def test_replicas_that_deviate_and_are_averaged_take_the_mean_rate() -> None:
    task = doubled(replace(SGD, steps=1))
    problem = replace(SGD, steps=1)
    engine, row = Engine(problem, task, dtype=torch.float64), Row(SGD.centre, 0, 0)
    rule = Deviating()
    (found,), (plain,) = run(engine, [row], rule, 2), run(engine, [row])
    # The two updates are linear in the rate, and the held-out loss is that of the mean.
    assert found.held_out == pytest.approx(plain.held_out, rel=1e-9)
    size = sum(p.numel() for p in RegressionTask().network().parameters())
    assert rule.seen == [((1, size), (1, size), (1, 2))]


class GoingBack(Plain):
    """The first row goes back to its start at step 3, and again at 4 with moments cleared."""

    def begin(self, state: State, peaks: Tensor) -> None:
        super().begin(state, peaks)
        self.state, self.first = state, state.snapshot()

    def rates(
        self, t: int, share: float, grads: Tensor, updates: Tensor, losses: Tensor
    ) -> Tensor:
        rows = torch.tensor([True, False])
        if t == 3:
            self.state.restore(rows, self.first)
        if t == 4:
            now, then = self.state.snapshot(), self.first
            assert all(torch.equal(a[0], b[0]) for a, b in zip(now, then, strict=True))
            assert not any(torch.equal(a[1], b[1]) for a, b in zip(now, then, strict=True))
            self.state.restore(rows, now, fresh=True)
            self.state.clear(~rows, first=False)
            assert self.state.first[1].any()
            assert not self.state.second[1].any()
            assert self.state.counts.tolist() == [[0, 0], [4, 0]]
        if t == 5:
            assert self.state.counts.tolist() == [[0, 0], [5, 1]]
            assert not self.state.first[0].any()
        return super().rates(t, share, grads, updates, losses)


def test_a_rule_restores_and_clears_the_rows_that_it_names() -> None:
    rows = [Row(ADAMW.centre, 0, 0)] * 2
    back, on = run(Engine(ADAMW, load(ADAMW)), rows, GoingBack())
    assert back.curve[3][1] == pytest.approx(back.initial)
    assert on.curve[3][1] < on.initial


def test_rates_may_differ_by_parameter() -> None:
    class Frozen(Plain):
        def rates(
            self, t: int, share: float, grads: Tensor, updates: Tensor, losses: Tensor
        ) -> Tensor:
            rates = super().rates(t, share, grads, updates, losses)
            return rates[..., None] * torch.zeros(grads.shape[1])

    (found,) = run(Engine(ADAMW, load(ADAMW)), [Row(1.0, 0, 0)], Frozen())
    assert found.held_out == pytest.approx(found.initial)


def test_what_the_engine_has_no_optimizer_for_is_refused() -> None:
    problem = PROBLEMS["gpt-0.1M-muon"]
    with pytest.raises(ValueError, match="'muon', and the engine has adamw and sgd"):
        Engine(problem, load(problem))
