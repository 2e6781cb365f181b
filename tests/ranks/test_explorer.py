"""`Explorer` on real processes: agreement, null settings, resume, faults."""

import io

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LinearLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
)

import hdet
from hdet.replica.explorer import reference as explorer_reference
from hdet.replica.explorer.probe import evaluate
from tests.helpers import batch, loss_at, small_model, train_ddp, two_groups, weights
from tests.rank_runner import run_ranks

pytestmark = pytest.mark.ranks

STEPS, T = 100, 4
SCHEDULES = {
    "one cycle": lambda o: OneCycleLR(o, [0.2, 0.3], 100, cycle_momentum=False),
    "cosine": lambda o: CosineAnnealingLR(o, 100),
    "warm-up, then cosine": lambda o: SequentialLR(
        o, [LinearLR(o, 0.1, total_iters=20), CosineAnnealingLR(o, 80)], [20]
    ),
    "none": None,
}
OPTIMIZERS = {
    "adamw": lambda m: torch.optim.AdamW(two_groups(m), lr=0.05, weight_decay=0.1),
    "sgd": lambda m: torch.optim.SGD(two_groups(m), lr=0.2, momentum=0.9, weight_decay=1e-3),
}


def probe_at(model, sync):
    x, y = batch(100_000 + sync, 0, size=16)
    return (model(x) - y).square().mean()


def counted(model):
    """Return a probe that scores a new batch at each call, and the number of calls."""
    calls = []

    def probe():
        calls.append(1)
        return probe_at(model, len(calls) - 1)

    return probe, calls


def requests(names, model):
    made = {
        "lr": lambda: hdet.lr(),
        "weight_decay": lambda: hdet.weight_decay(),
        "betas": lambda: hdet.betas(),
        "temperature": lambda: hdet.attribute(model[1], "temperature"),
    }
    return [made[name]() for name in names]


class Scaled(nn.Module):
    temperature = 1.0

    def forward(self, x):
        return torch.tanh(x / self.temperature)


def network() -> nn.Sequential:
    first, _, last = small_model().children()
    return nn.Sequential(first, Scaled(), last)


def _distributed(name, schedule, explore, with_probe):
    model = network()
    optimizer = OPTIMIZERS[name](model)
    make = SCHEDULES[schedule]
    explorer = hdet.Explorer(
        optimizer,
        make and make(optimizer),
        requests(explore, model),
        sync_every=T,
        probe=counted(model)[0] if with_probe else None,
        model=model,
        seed=3,
        search=False,
    )
    # The last step of a schedule made for as many is not to be taken.
    rates = train_ddp(model, optimizer, explorer, dist.get_rank(), range(STEPS - 1))
    return rates, weights(model), explorer.metrics()


CASES = [
    ("adamw", "one cycle", ["lr"], True),
    ("sgd", "cosine", ["lr"], True),
    ("adamw", "warm-up, then cosine", ["lr", "weight_decay"], True),
    ("adamw", "none", ["lr", "betas", "temperature"], True),
    ("sgd", "one cycle", ["lr"], False),
]


@pytest.mark.filterwarnings("ignore:.*cannot tell them apart")
@pytest.mark.parametrize(("name", "schedule", "explore", "with_probe"), CASES)
def test_four_ranks_agree_with_the_reference_over_100_steps(
    name, schedule, explore, with_probe
):
    ranks = run_ranks(_distributed, 4, name, schedule, explore, with_probe)
    trace = explorer_reference.train(
        network(),
        OPTIMIZERS[name],
        SCHEDULES[schedule],
        loss_at,
        probe_at if with_probe else None,
        explore=lambda model: requests(explore, model),
        replicas=4,
        total_steps=STEPS - 1,
        T=T,
        seed=3,
        search=False,
    )
    for r, (rates, parameters, metrics) in enumerate(ranks):
        expected = [[group[r] for group in step] for step in trace.rates]
        torch.testing.assert_close(
            torch.tensor(rates, dtype=torch.float64),
            torch.tensor(expected, dtype=torch.float64),
            rtol=1e-7,
            atol=0,
        )
        for mine, theirs in zip(parameters, trace.models[r].parameters(), strict=True):
            torch.testing.assert_close(mine, theirs.detach(), rtol=1e-7, atol=1e-9)
        assert list(metrics["values"].values()) == pytest.approx(trace.values[-1], rel=1e-7)
    rates = torch.tensor(trace.rates)
    assert (rates.amax(2) > rates.amin(2)).all()
    assert len({tuple(values) for values in trace.values}) > 10


def _null(explore):
    model = small_model()
    optimizer = OPTIMIZERS["adamw"](model)
    scheduler = SCHEDULES["one cycle"](optimizer)
    if explore is not None:
        scheduler = hdet.Explorer(
            optimizer, scheduler, explore, sync_every=T, probe=counted(model)[0], model=model
        )
    else:
        stepped = scheduler.step
        scheduler.step = lambda _=None: stepped()
    train_ddp(model, optimizer, scheduler, dist.get_rank(), range(STEPS - 1))
    return weights(model), [g["lr"] for g in optimizer.param_groups]


@pytest.mark.parametrize(("ranks", "explore"), [(2, []), (1, [hdet.lr])])
def test_nothing_explored_or_one_replica_is_the_wrapped_scheduler_bit_for_bit(ranks, explore):
    with_explorer = run_ranks(_null_made, ranks, [f.__name__ for f in explore])
    plain = run_ranks(_null, ranks, None)
    for (mine, rates), (theirs, plain_rates) in zip(with_explorer, plain, strict=True):
        assert rates == plain_rates
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def _null_made(names):
    return _null([getattr(hdet, name)() for name in names])


def _noisy_network():
    layers = list(small_model(norm=True).children())
    return nn.Sequential(*layers[:2], nn.Dropout(0.2), *layers[2:])


def _trained_with_a_probe(mode, kind):
    """Train with a fixed exploration, whose probe is or is not evaluated."""
    rank = dist.get_rank()
    model = _noisy_network()
    with torch.random.fork_rng():
        torch.set_rng_state(torch.Generator().manual_seed(rank).get_state())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        probe, calls = counted(model)
        states = []
        wrapped = DistributedDataParallel(model)
        for t in range(12):
            optimizer.zero_grad()
            loss = loss_at(wrapped, t, rank)
            loss.backward()
            if kind == "probed":
                evaluate(probe, model, mode, 0, t)
            gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
            optimizer.step()
            states.append(gradients)
        buffers = [b.clone() for b in model.buffers()]
        return weights(model), buffers, states, torch.get_rng_state(), model.training, calls


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_a_probe_leaves_training_bit_identical(mode):
    probed = run_ranks(_trained_with_a_probe, 2, mode, "probed")
    alone = run_ranks(_trained_with_a_probe, 2, mode, "alone")
    for mine, theirs in zip(probed, alone, strict=True):
        for a, b in zip(mine[:2], theirs[:2], strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
        for a, b in zip(mine[2], theirs[2], strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
        assert torch.equal(mine[3], theirs[3])
        assert mine[4] is True
        assert len(mine[5]) == 12
        assert not theirs[5]


def _make_everything():
    model = network()
    optimizer = OPTIMIZERS["adamw"](model)
    probe, calls = counted(model)
    explorer = hdet.Explorer(
        optimizer,
        SCHEDULES["warm-up, then cosine"](optimizer),
        requests(["lr", "weight_decay", "betas", "temperature"], model),
        sync_every=T,
        probe=probe,
        model=model,
        search=False,
    )
    return model, optimizer, explorer, calls


def _resumed(stop):
    """Train 60 steps with a checkpoint at `stop`; return the end, and that of going on."""
    rank = dist.get_rank()

    def end(model, optimizer, explorer):
        entries = [(g["lr"], g["weight_decay"], g["betas"]) for g in optimizer.param_groups]
        metrics = explorer.metrics()
        rest = [entries, model[1].temperature, metrics["values"], metrics["t"]]
        return weights(model), rest

    model, optimizer, explorer, calls = _make_everything()
    train_ddp(model, optimizer, explorer, rank, range(stop))
    file = io.BytesIO()
    torch.save([part.state_dict() for part in (model, optimizer, explorer)], file)
    seen = len(calls)
    train_ddp(model, optimizer, explorer, rank, range(stop, 60))
    whole = end(model, optimizer, explorer)

    torch.rand(rank + 1)
    model, optimizer, explorer, calls = _make_everything()
    calls.extend([1] * seen)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    for part, state in zip(
        (model, explorer, optimizer), [saved[0], saved[2], saved[1]], strict=True
    ):
        part.load_state_dict(state)
    train_ddp(model, optimizer, explorer, rank, range(stop, 60))
    return whole, end(model, optimizer, explorer)


@pytest.mark.filterwarnings("ignore:.*cannot tell them apart")
@pytest.mark.parametrize("stop", [4, 22, 24, 51])
def test_a_resumed_run_is_the_same_to_the_last_bit_in_every_dimension(stop):
    ranks = run_ranks(_resumed, 4, stop)
    for (mine, rest), (theirs, expected) in ranks:
        assert all(torch.equal(x, y) for x, y in zip(mine, theirs, strict=True))
        assert rest == expected
    assert len({rest[1] for (_, rest), _ in ranks}) == 4


def _on_plateau():
    model = small_model()
    optimizer = OPTIMIZERS["sgd"](model)
    plateau = ReduceLROnPlateau(
        optimizer, factor=0.5, patience=0, threshold=10.0, threshold_mode="abs"
    )
    explorer = hdet.Explorer(optimizer, plateau, sync_every=T)
    train_ddp(model, optimizer, explorer, dist.get_rank(), range(3 * T))
    # The first sync sets the best, each later one is no better by the threshold.
    return [group.now for group in explorer._schedule.groups], optimizer.param_groups[0]["lr"]


def test_reduce_on_plateau_counts_syncs_and_sees_the_same_loss_on_all_ranks():
    ranks = run_ranks(_on_plateau, 4)
    assert all(rates == pytest.approx([0.05, 0.05]) for rates, _ in ranks)
    assert len({rate for _, rate in ranks}) == 4


@torch.no_grad()
def mean_loss(model):
    return sum(float(loss_at(model, 10_000 + k, 0)) for k in range(50)) / 50


def _far_too_high(with_probe):
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=30.0, momentum=0.9)
    explorer = hdet.Explorer(
        optimizer,
        OneCycleLR(optimizer, 30.0, total_steps=400, cycle_momentum=False),
        sync_every=T,
        probe=counted(model)[0] if with_probe else None,
        model=model,
    )
    train_ddp(model, optimizer, explorer, dist.get_rank(), range(399))
    explorer.converge()
    return mean_loss(model), explorer.metrics()


def test_a_rate_hundreds_of_times_too_high_ends_well():
    untrained = mean_loss(small_model())
    loss, metrics = run_ranks(_far_too_high, 4, True)[0]
    assert loss < 0.2 * untrained
    assert metrics["values"]["lr/0"] < 0.1
    assert metrics["phase"] == "track"
