"""Others change what the replicas explore: it is a factor, the same on all of them."""

import warnings

import pytest
import torch
import torch.distributed as dist
from torch.optim import lr_scheduler as schedulers

import hdet
from tests.helpers import loss_at, small_model, train_ddp, two_groups, weights
from tests.rank_runner import run_ranks

pytestmark = pytest.mark.ranks

T, STEPS = 4, 24


class Both:
    """Two schedulers that are stepped in turn."""

    def __init__(self, first, second):
        self.pair = first, second

    def step(self, loss):
        for scheduler in self.pair:
            scheduler.step(*([loss] if isinstance(scheduler, hdet.Explorer) else []))


def _trained(how):
    """Train at a rate that decays by 0.9 a step; return rates, weights and what is known."""
    rank, model = dist.get_rank(), small_model()
    optimizer = torch.optim.AdamW(two_groups(model), lr=0.05)
    explore = [hdet.lr(groups=[0])] if how == "one group" else [hdet.lr()]
    decay = schedulers.ExponentialLR(optimizer, 0.9)
    wrapped = decay if how in ("wrapped", "one group") else None
    settings = {"sync_every": T, "model": model, "search": False}
    explorer = hdet.Explorer(optimizer, wrapped, explore, **settings)
    scheduler = explorer
    if how == "beside, after":
        scheduler = Both(explorer, decay)
    elif how == "beside, before":
        scheduler = Both(decay, explorer)

    def by_hand(step):
        if how == "by hand" and step:
            for group in optimizer.param_groups:
                group["lr"] *= 0.9

    rates = train_ddp(model, optimizer, scheduler, rank, range(STEPS), by_hand)
    with explorer.converged():
        state = explorer.state_dict()
        rest = [state["schedule"]["groups"], state["exploration"], state["others"]]
        return rates, weights(model), explorer.metrics()["base_lr"], rest


HOW = ["beside, after", "beside, before", "by hand"]


@pytest.mark.parametrize("how", HOW)
def test_a_decay_beside_it_is_the_same_as_one_that_is_wrapped(how):
    expected = run_ranks(_trained, 3, "wrapped")
    for mine, theirs in zip(run_ranks(_trained, 3, how), expected, strict=True):
        got, want = torch.tensor(mine[0]), torch.tensor(theirs[0])
        # One that comes first has decayed by a step more when a sync looks at the schedule.
        rtol = 1e-2 if how == "beside, before" else 1e-9
        torch.testing.assert_close(got, want, rtol=rtol, atol=0)
        if how != "beside, before":
            for a, b in zip(mine[1], theirs[1], strict=True):
                torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("how", ["wrapped", *HOW])
def test_inside_converged_all_replicas_have_the_same_state_to_the_last_bit(how):
    ranks = run_ranks(_trained, 3, how)
    assert all(rest == ranks[0][3] for *_, rest in ranks)
    assert ranks[0][3][2]["taken_over"] is (how != "wrapped")


def test_a_group_that_is_not_explored_follows_the_schedule_to_the_last_bit():
    for rates, *_ in run_ranks(_trained, 2, "one group"):
        rate = 0.05
        for explored, plain in rates:
            assert plain == rate
            assert explored != rate
            rate *= 0.9


def _set_at_every_step(explore):
    rank, model = dist.get_rank(), small_model()
    optimizer = torch.optim.AdamW(two_groups(model), lr=0.05, weight_decay=0.1)
    explore = [hdet.lr(groups=[1])] if explore == "lr" else [hdet.weight_decay(groups=[1])]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        explorer = hdet.Explorer(optimizer, None, explore, sync_every=T, model=model)

        def set_them(step):
            group = optimizer.param_groups[1]
            group["lr"], group["weight_decay"] = 0.05 * min(1, (step + 1) / 10), 0.2

        train_ddp(model, optimizer, explorer, rank, range(STEPS), set_them)
    return [str(w.message) for w in caught if "other code sets" in str(w.message)]


NAMES = [("lr", "lr/1"), ("weight decay", "weight_decay/1")]


@pytest.mark.parametrize(("explore", "name"), NAMES)
def test_what_the_loop_sets_at_every_step_is_named_once(explore, name):
    for rank, said in enumerate(run_ranks(_set_at_every_step, 2, explore)):
        assert len(said) == 1
        assert (
            f"[rank {rank} of 2] `Explorer`: other code sets `{name}` at every step" in said[0]
        )
        assert "Scale it instead" in said[0]


# --- checkpoints of others


def _taken_over(search):
    """Train with a plain schedule, and go on with an Explorer around it."""
    rank, model = dist.get_rank(), small_model()
    optimizer = torch.optim.AdamW(two_groups(model), lr=0.05)
    plain = schedulers.CosineAnnealingLR(optimizer, 400)
    for t in range(100):
        optimizer.zero_grad()
        loss_at(model, t, 0).backward()
        optimizer.step()
        plain.step()
    saved = plain.state_dict(), optimizer.state_dict()
    rate = plain.get_last_lr()

    optimizer = torch.optim.AdamW(two_groups(model), lr=0.05)
    wrapped = schedulers.CosineAnnealingLR(optimizer, 400)
    explorer = hdet.Explorer(
        optimizer, wrapped, sync_every=T, model=model, probe=lambda: 1.0, search=search
    )
    before = explorer.metrics()
    optimizer.load_state_dict(saved[1])
    explorer.load_state_dict(saved[0])
    after = explorer.metrics()
    train_ddp(model, optimizer, explorer, rank, range(100, 103))
    plain.step()
    return before, after, rate, explorer.metrics(), plain.get_last_lr()


def test_the_state_of_the_wrapped_scheduler_goes_on_at_its_rate():
    for before, after, rate, later, next_rate in run_ranks(_taken_over, 2, None):
        assert before["base_lr"] != rate
        assert after["step"] == 100
        assert after["base_lr"] == rate
        assert after["phase"] == "track"
        assert sorted(after["replica_lr"][0]) == pytest.approx([rate[0] / 1.3, rate[0] * 1.3])
        assert later["step"] == 103
        assert later["base_lr"][0] < next_rate[0] < rate[0]


def test_a_search_that_is_asked_for_begins_far_below_it():
    for _, after, _, _, _ in run_ranks(_taken_over, 2, True):
        assert after["phase"] == "climb"
        # On what the user wrote, wherever the schedule is by now.
        assert after["base_lr"] == pytest.approx([0.05 / 1000] * 2)


def _found_on_several():
    rank, model = dist.get_rank(), small_model()
    optimizer = torch.optim.AdamW(two_groups(model), lr=0.05)
    explorer = hdet.Explorer(optimizer, explore=[hdet.lr()], sync_every=T, model=model)
    train_ddp(model, optimizer, explorer, rank, range(STEPS))
    with explorer.converged():
        return explorer.state_dict(), explorer.metrics()["base_lr"]


def test_on_one_replica_training_goes_on_at_the_rate_that_several_have_found():
    state, found = run_ranks(_found_on_several, 2)[0]
    model = small_model()
    optimizer = torch.optim.AdamW(two_groups(model), lr=0.05)
    explorer = hdet.Explorer(optimizer, schedulers.LambdaLR(optimizer, lambda t: 1.0))
    with pytest.raises(ValueError, match="must be LambdaLR, the scheduler wrapped here"):
        explorer.load_state_dict(state)
    explorer = hdet.Explorer(optimizer)
    explorer.load_state_dict(state)
    assert found != [0.05, 0.05]
    for _ in range(6):
        assert [g["lr"] for g in optimizer.param_groups] == found
        assert explorer.get_last_lr() == explorer.metrics()["base_lr"] == found
        loss = loss_at(model, 0, 0)
        loss.backward()
        optimizer.step()
        explorer.step(loss)


# --- several on one optimizer


def _two(shared):
    """Step two Explorers over one optimizer; return what the first says, and the rates."""
    rank, model = dist.get_rank(), small_model()
    optimizer = torch.optim.AdamW(two_groups(model), lr=0.05)
    settings = {"sync_every": T, "model": model, "search": False}
    first = hdet.Explorer(optimizer, explore=[hdet.lr(groups=[0])], **settings)
    explore = [hdet.lr(groups=[0] if shared else [1])]
    second = hdet.Explorer(optimizer, explore=explore, **settings)
    begun = second.metrics()["base_lr"]
    for t in range(STEPS):
        optimizer.zero_grad()
        loss = loss_at(model, t, 0)
        loss.backward()
        optimizer.step()
        second.step(loss)
        try:
            first.step(loss)
        except RuntimeError as error:
            return str(error), begun, second.metrics()["replica_lr"][0]
    return None, begun, [first.metrics()["syncs"], second.metrics()["syncs"], rank]


def test_of_two_that_would_set_the_same_rate_the_later_is_right_and_the_other_says_so():
    for rank, (said, begun, rates) in enumerate(run_ranks(_two, 2, True)):
        assert said is not None
        assert said.startswith(f"[rank {rank} of 2] `Explorer`: a newer one controls")
        assert "`lr/0` of the same optimizer" in said
        assert begun == [0.05, 0.05]
        assert sorted(rates) == pytest.approx([0.05 / 1.3, 0.05 * 1.3])


def test_two_that_explore_different_groups_leave_each_other_alone():
    for said, begun, (first, second, _) in run_ranks(_two, 2, False):
        assert said is None
        assert begun[1] == 0.05
        assert first == second == STEPS // T
