"""A rank with settings or a search of its own is an error on all that says what differs."""

import copy
import time

import pytest
import torch
import torch.distributed as dist
from torch.optim import lr_scheduler as schedulers

import hdet
from tests.helpers import batch, loss_at, small_model, train_ddp, two_groups
from tests.rank_runner import run_ranks

pytestmark = pytest.mark.ranks

T = 2


def _explorer(model, odd=None, search=True):
    """Make the same Explorer on every rank, but for what is `odd` here."""
    rate = 0.02 if odd == "rate" else 0.01
    optimizer = torch.optim.AdamW(two_groups(model), lr=rate, weight_decay=0.1)
    make = {"other schedule": lambda o: schedulers.ExponentialLR(o, 0.9)}
    length = 900 if odd == "length" else 1000
    cosine = lambda o: schedulers.CosineAnnealingLR(o, length)
    explore = [hdet.lr(0.5 if odd == "spread" else 0.3)]
    if odd == "dimensions":
        explore = [*explore, hdet.weight_decay()]
    if odd == "bounds":
        explore = [hdet.lr(bounds=(0.1, 10.0))]
    if odd == "one cycle":
        return optimizer, _one_cycle(optimizer)
    probe = hdet.probe(model, [batch(0, 0)], lambda m, b: (m(b[0]) - b[1]).square().mean())
    explorer = hdet.Explorer(
        optimizer,
        make.get(odd or "", cosine)(optimizer),
        explore,
        sync_every=4 if odd == "interval" else T,
        warmup_steps=2 if odd == "warm-up" else 0,
        probe=None if odd == "no probe" else probe,
        probe_mode="train" if odd == "mode" else "eval",
        seed=7 if odd == "seed" else 0,
        search=False if odd == "search" else None if odd == "no probe" else search,
        shared_gradients=odd != "local",
        model=model,
        config=hdet.SearchConfig(track_step=0.2) if odd == "config" else None,
    )
    return optimizer, explorer


def _one_cycle(optimizer, **settings):
    options = {"ensemble_lr_spread_ratio": 0.3, "model_sync_interval": T, **settings}
    return hdet.OneCycleAutoLR(optimizer, [0.02, 0.05], 40, **options)


def _said(train):
    try:
        train()
    except (ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _explored(odd):
    rank, model = dist.get_rank(), small_model()
    optimizer, scheduler = _explorer(model, odd if rank == 1 else None)
    before = [p.clone() for p in model.parameters()]

    def train():
        for t in range(6):
            optimizer.zero_grad()
            loss = loss_at(model, t, rank)
            loss.backward()
            optimizer.step()
            scheduler.step(loss)

    said = _said(train)
    return said, scheduler.metrics()["step"], before


ODD = {
    "rate": ("rates of the schedule", "0.02"),
    "length": ("schedule", "900"),
    "other schedule": ("schedule", "ExponentialLR"),
    "spread": ("explore lr/0", "0.40546"),
    "bounds": ("explore lr/1", "10.0"),
    "dimensions": ("explore weight_decay/0", "missing"),
    "interval": ("sync_every", "4 on rank 1; 2 on the others"),
    "warm-up": ("warmup_steps", "2 on rank 1; 0 on the others"),
    "no probe": ("probe", "False on rank 1; True on the others"),
    "mode": ("probe_mode", "'train' on rank 1"),
    "seed": ("seed", "7 on rank 1; 0 on the others"),
    "search": ("search", "False on rank 1; True on the others"),
    "local": ("shared_gradients", "True on rank 1"),
    "config": ("config.track_step", "0.2 on rank 1; 0.1 on the others"),
}


@pytest.mark.parametrize("odd", ODD)
def test_a_difference_is_named_on_every_rank_at_the_first_step(odd):
    key, words = ODD[odd]
    for rank, (said, steps, _) in enumerate(run_ranks(_explored, 3, odd)):
        assert said is not None
        opening = f"ValueError: [rank {rank} of 3] `Explorer`: the replicas do not agree at"
        assert said.startswith(opening)
        assert key in said
        assert words in said
        assert "Make it with the same arguments on every rank" in said
        assert steps == 0


def test_another_class_on_one_rank_is_named():
    for said, _, _ in run_ranks(_explored, 3, "one cycle"):
        assert said is not None
        assert "of `OneCycleAutoLR`" in said
        assert "of `Explorer`" in said


@pytest.mark.parametrize("odd", ["nothing explored", "no spread"])
def test_a_rank_that_has_nothing_to_explore_is_named_at_once(odd):
    ranks = run_ranks(_idle, 3, odd)
    # It waits for the others' gradients in a real run; here it goes through.
    assert ranks[1] is None
    for rank in (0, 2):
        said = ranks[rank]
        assert said is not None
        assert f"RuntimeError: [rank {rank} of 3] " in said
        assert (
            "for rank 1, where the scheduler has nothing to explore, so it never joins" in said
        )


def _idle(odd):
    rank, model = dist.get_rank(), small_model()
    optimizer = torch.optim.AdamW(two_groups(model))
    # One that explores nothing anywhere is no reason to complain.
    hdet.Explorer(optimizer, explore=[])
    if odd == "no spread":
        spread = 0.0 if rank == 1 else 0.3
        scheduler = _one_cycle(optimizer, ensemble_lr_spread_ratio=spread)
    else:
        scheduler = hdet.Explorer(optimizer, None, [] if rank == 1 else None, model=model)

    def train():
        for t in range(2 * T):
            loss = loss_at(model, t, rank)
            loss.backward()
            optimizer.step()
            scheduler.step(loss)

    said = _said(train)
    if rank == 1:
        time.sleep(4)  # It outlives the others' look, which is all that they need of it.
    return said


def test_nothing_odd_trains_on():
    assert [(said, steps) for said, steps, _ in run_ranks(_explored, 3, "")] == [(None, 6)] * 3


ODD_CYCLE = {
    "seed": ({"seed": 5}, "seed", "5 on rank 1; 0 on the others"),
    "sigma": ({"loss_scale": 0.1}, "loss_scale", "0.1 on rank 1; 0.002 on the others"),
    "spread": ({"ensemble_lr_spread_ratio": 0.1}, "ensemble_lr_spread_ratio", "0.1 on rank 1"),
    "interval": ({"model_sync_interval": 3}, "model_sync_interval", "3 on rank 1"),
    "phases": ({"pct_start": 0.5}, "schedule", "on rank 1"),
}


def _cycled(odd):
    rank, model = dist.get_rank(), small_model()
    optimizer = torch.optim.AdamW(two_groups(model))
    scheduler = _one_cycle(optimizer, **(ODD_CYCLE[odd][0] if rank == 1 else {}))
    return _said(lambda: train_ddp(model, optimizer, scheduler, rank, range(6)))


@pytest.mark.parametrize("odd", ODD_CYCLE)
def test_one_cycle_compares_its_settings_too(odd):
    _, key, words = ODD_CYCLE[odd]
    for rank, said in enumerate(run_ranks(_cycled, 3, odd)):
        assert said is not None
        opening = f"ValueError: [rank {rank} of 3] `OneCycleAutoLR`: the replicas do not agree"
        assert said.startswith(opening)
        assert key in said
        assert words in said


def _loaded(what):
    """Train, save twice, and go on with another state on rank 1 than on the others."""
    rank, model = dist.get_rank(), small_model()
    optimizer, scheduler = _explorer(model, search=False)
    states = []
    for steps in (range(4), range(4, 8)):
        train_ddp(model, optimizer, scheduler, rank, steps)
        with scheduler.converged():
            states.append(scheduler.state_dict())
    state = states[rank == 1]
    if what == "search":
        rates = {**states[0]["exploration"]["rates"], "rollbacks": int(rank == 1)}
        state = {**states[0], "exploration": {**states[0]["exploration"], "rates": rates}}
    scheduler.load_state_dict(state)
    return _said(lambda: train_ddp(model, optimizer, scheduler, rank, range(8, 14)))


@pytest.mark.parametrize(
    ("what", "key"), [("checkpoint", "schedule"), ("search", "state of the search")]
)
def test_another_checkpoint_on_one_rank_is_named_at_the_next_step(what, key):
    for said in run_ranks(_loaded, 3, what):
        assert said is not None
        assert key in said
        assert "load the same checkpoint everywhere" in said


def _drifted():
    """Rank 1's search changes behind its back between two syncs."""
    rank, model = dist.get_rank(), small_model()
    optimizer, scheduler = _explorer(model, search=False)
    train_ddp(model, optimizer, scheduler, rank, range(3))
    assert isinstance(scheduler, hdet.Explorer)
    scheduler._exploration.coordinates[0] += 1e-15 * (rank == 1)
    return _said(lambda: train_ddp(model, optimizer, scheduler, rank, range(3, 6)))


def test_a_search_that_differs_by_a_last_bit_is_noticed_at_the_next_sync():
    for said in run_ranks(_drifted, 2):
        assert said is not None
        assert "do not agree at the sync at step 4" in said
        assert "state of the search" in said


def _copied():
    model = small_model()
    optimizer, scheduler = _explorer(model)
    cycle = _one_cycle(torch.optim.AdamW(two_groups(model)))
    said = []
    for original in (scheduler, cycle):
        try:
            copy.deepcopy(original)
        except TypeError as error:
            said.append(str(error))
    return said


def test_a_copy_of_a_scheduler_whose_replicas_differ_is_refused():
    for explorer, cycle in run_ranks(_copied, 2):
        assert "`Explorer` cannot be copied or pickled" in explorer
        assert "`OneCycleAutoLR` cannot be copied or pickled" in cycle
        assert "Save `state_dict()`, make a new one and load it." in cycle
