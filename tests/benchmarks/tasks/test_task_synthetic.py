"""The tasks whose examples are drawn from a fixed random teacher.

What every task promises is in `test_task_contract`; here is what is special to these.
"""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.robustness.problems import held_out_loss
from benchmarks.tasks import Task, get_task
from benchmarks.tasks.embedding import SIZES, EmbeddingTask
from benchmarks.tasks.regression import NOISE, RegressionTask
from benchmarks.tasks.teacher import CLASSES, NOISE_SHARE, TeacherTask
from hdet.seeding import generator

NAMES = ("teacher", "regression", "embedding")


@pytest.fixture(params=NAMES)
def task(request: pytest.FixtureRequest) -> Task:
    return get_task(request.param)


def column(task: Task, index: int) -> Tensor:
    """Return the held-out inputs (0) or labels (1) as one tensor."""
    return torch.cat([batch[index] for batch in task.held_out()])


def trained(task: Task, steps: int, lr: float) -> nn.Module:
    model = task.model(generator(0, "model"))
    optimizer = torch.optim.AdamW(task.groups(model), lr=lr)
    for step in range(steps):
        optimizer.zero_grad()
        for rank in range(4):
            (task.loss(model, task.batch(0, step, rank, 4)) / 4).backward()
        optimizer.step()
    return model


def test_the_teacher_and_the_held_out_set_are_the_same_in_every_instance(task):
    before = torch.get_rng_state()
    other = type(task)()
    assert torch.equal(before, torch.get_rng_state())
    for i in (0, 1):
        assert torch.equal(column(task, i), column(other, i))
        assert len(column(task, i)) == 4096
        # The number of replicas does not change a rank's batch either.
        assert torch.equal(task.batch(3, 5, 1, 4)[i], other.batch(3, 5, 1, 8)[i])


@pytest.mark.parametrize("kind", [TeacherTask, RegressionTask])
def test_no_held_out_input_is_in_the_stream_and_none_returns(kind):
    task = kind()
    seen = [task.batch(0, step, rank, 2)[0] for step in range(50) for rank in range(2)]
    rows = torch.cat([column(task, 0), *seen])
    assert len(rows.unique(dim=0)) == len(rows)


def test_held_out_ids_and_labels_are_not_a_part_of_the_stream():
    # Ids are few, so that pairs must return; the same 32 of them in a row do not.
    task = EmbeddingTask()
    held = {chunk.numpy().tobytes() for chunk in column(task, 0).split(task.batch_size)}
    seen = {task.batch(0, step, 0, 2)[0].numpy().tobytes() for step in range(200)}
    assert len(held) == 128
    assert len(seen) == 200
    assert not held & seen


@pytest.mark.parametrize(
    ("name", "share"), [("teacher", 0.97), ("regression", 0.6), ("embedding", 0.97)]
)
def test_sixty_steps_beat_the_best_constant(name, share):
    task = get_task(name)
    labels = column(task, 1)
    if name == "regression":
        constant = float(labels.var())
    else:
        constant = float(torch.distributions.Categorical(labels.long().bincount()).entropy())
    assert held_out_loss(task, trained(task, 60, 1e-2)) < share * constant


def test_teacher_labels_are_informative_but_not_certain():
    task = TeacherTask()
    chances = task._probabilities(column(task, 0))
    assert torch.allclose(chances.sum(1), torch.ones(len(chances)), atol=1e-5)
    assert chances.min() >= 0.99 * NOISE_SHARE / CLASSES
    entropy = float(-(chances * chances.log()).sum(1).mean())
    assert 1.2 < entropy < 1.6
    drawn = F.nll_loss(chances.log(), column(task, 1))
    assert float(drawn) == pytest.approx(entropy, rel=0.05)


def test_regression_targets_are_the_teacher_plus_noise_of_the_named_size():
    task = RegressionTask()
    expected, targets = task._expected(column(task, 0)), column(task, 1)
    assert float((targets - expected).std()) == pytest.approx(NOISE, rel=0.05)
    assert 0.7 < float(expected.var()) < 1.3


def test_ids_follow_zipf_and_stay_in_their_tables():
    task = EmbeddingTask()
    ids, _ = task._draw(100_000, generator(0))
    assert ids.dtype == torch.int64
    assert ids.min() == 0
    assert (ids.max(dim=0).values < torch.tensor(SIZES)).all()
    for feature in (0, 1):
        shares = ids[:, feature].bincount(minlength=SIZES[feature]) / len(ids)
        harmonic = float((1 / torch.arange(1, SIZES[feature] + 1)).sum())
        for rank in (1, 2, 10):
            assert float(shares[rank - 1]) == pytest.approx(1 / rank / harmonic, rel=0.1)


def test_embedding_labels_follow_the_factor_model():
    task = EmbeddingTask()
    ids, labels = task._draw(100_000, generator(1))
    chances = torch.sigmoid(task._logits(ids))
    assert set(labels.tolist()) == {0.0, 1.0}
    for low in (0.0, 0.25, 0.5, 0.75):
        among = (chances >= low) & (chances < low + 0.25)
        expected = float(chances[among].mean())
        assert float(labels[among].mean()) == pytest.approx(expected, abs=0.02)


def test_the_embedding_model_has_its_three_groups():
    task = EmbeddingTask()
    groups = {group["name"]: group["params"] for group in task.groups(task.model(generator(0)))}
    sizes = {name: [tuple(p.shape) for p in params] for name, params in groups.items()}
    assert sizes["embedding"] == [(size, 16) for size in SIZES]
    assert sizes["dense"] == [(64, 64), (64, 64), (1, 64)]
    assert sizes["no_decay"] == [(64,), (64,), (1,)]
