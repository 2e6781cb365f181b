"""`converged()`: all replicas as one for saving and evaluating, and what comes after."""

import io
import math
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.nn.parallel import DistributedDataParallel

import hdet
from tests.helpers import loss_at, small_model, two_groups, weights
from tests.rank_runner import run_ranks
from tests.ranks.common import AUTO, T

pytestmark = [
    pytest.mark.ranks,
    # torch's own checkpoint code touches typed storages.
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning"),
]

STEPS = 40
KINDS = ["explorer", "one cycle"]


def make_schedule(kind, model, optimizer):
    if kind == "one cycle":
        return hdet.OneCycleAutoLR(optimizer, [0.02, 0.05], STEPS, model=model, **AUTO)
    return hdet.Explorer(
        optimizer,
        explore=[hdet.lr(), hdet.weight_decay()],
        sync_every=T,
        # By the model's own weights alone: a counter would not survive a restart.
        probe=lambda: loss_at(model, 9_999, 0),
        model=model,
        search=False,
    )


class Run:
    """A model, wrapped, with its optimizer and scheduler."""

    def __init__(self, kind):
        self.model = small_model(norm=True)
        self.optimizer = torch.optim.AdamW(two_groups(self.model), 0.03)
        self.ddp = DistributedDataParallel(self.model, broadcast_buffers=False)
        # DDP orders its buckets anew after the first backward pass, and with three ranks or
        # more that is another order of addition: a resumed run would differ in the last bit.
        loss_at(self.ddp, 0, dist.get_rank()).backward()
        self.optimizer.zero_grad()
        self.scheduler = make_schedule(kind, self.model, self.optimizer)

    def train(self, steps, at=0, block: Callable[[], object] = lambda: None):
        rates = []
        for t in steps:
            self.optimizer.zero_grad()
            loss = loss_at(self.ddp, t, dist.get_rank())
            loss.backward()
            rates.append(self.scheduler.get_last_lr())
            self.optimizer.step()
            self.scheduler.step(loss)
            if t + 1 == at:
                block()
        return rates

    def parts(self):
        return self.model, self.optimizer, self.scheduler


def _state(model):
    return [t.detach().clone() for t in model.state_dict().values()]


# --- saving outside


def _saved(kind, who):
    run = Run(kind)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for start in (0, T, 2 * T):
            run.train(range(start, start + T - 1))
            if who == "inside":
                with run.scheduler.converged():
                    run.scheduler.state_dict()
            elif who == "all" or dist.get_rank() == 1:
                run.scheduler.state_dict()
            run.train(range(start + T - 1, start + T))
    return [str(w.message) for w in told if "state_dict" in str(w.message)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_that_one_rank_alone_has_taken_is_told_once_on_all(kind):
    for said in run_ranks(_saved, 3, kind, "one"):
        (message,) = said
        assert "outside `converged()` on replica 1 alone" in message
        assert "with scheduler.converged():" in message


@pytest.mark.parametrize("who", ["all", "inside"])
def test_states_of_all_ranks_and_of_the_mean_are_as_they_should_be(who):
    assert run_ranks(_saved, 2, "explorer", who) == [[], []]


# --- inside and after


def _losses(kind):
    run = Run(kind)
    run.train(range(2 * T))
    before = run.scheduler.metrics()["losses"]
    run.scheduler.converge()  # right after a sync, when no loss has been seen yet
    return before, run.scheduler.metrics()["losses"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_losses_told_stay_those_of_the_last_sync(kind):
    for before, after in run_ranks(_losses, 2, kind):
        assert all(map(math.isfinite, before))
        assert after == before


def _blocked(kind, restore):
    run = Run(kind)
    model, optimizer, scheduler = run.parts()
    inside = {}

    def block():
        own = _state(model)
        with scheduler.converged(restore=restore):
            inside["state"] = _state(model)
            inside["rates"] = [g["lr"] for g in optimizer.param_groups]
            inside["decay"] = [g["weight_decay"] for g in optimizer.param_groups]
            inside["base"] = scheduler.metrics()["base_lr"]
            inside["scheduler"] = repr(scheduler.state_dict())
            try:
                scheduler.step(1.0)
            except RuntimeError as error:
                inside["step"] = str(error)
        inside["after"] = all(map(torch.equal, own, _state(model)))
        inside["rates after"] = [g["lr"] for g in optimizer.param_groups]
        inside["last_lr"] = scheduler.get_last_lr()

    rates = run.train(range(STEPS), at=15, block=block)
    return inside, rates, _state(model), scheduler.metrics()["syncs"]


def _plain(kind, converge_at=0):
    run = Run(kind)
    rates = run.train(range(STEPS), converge_at, run.scheduler.converge)
    return rates, _state(run.model), run.scheduler.metrics()["syncs"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("restore", [True, False])
def test_inside_all_replicas_are_the_same_to_the_last_bit(kind, restore):
    ranks = run_ranks(_blocked, 3, kind, restore)
    first = ranks[0][0]
    for inside, *_ in ranks:
        assert all(map(torch.equal, inside["state"], first["state"]))
        assert inside["rates"] == inside["base"] == first["base"]
        assert inside["decay"] == first["decay"]
        assert inside["scheduler"] == first["scheduler"]
        assert inside["rates after"] == inside["last_lr"]
        assert "leave the block" in inside["step"]
    assert len({tuple(inside["rates after"]) for inside, *_ in ranks}) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_with_restore_training_goes_on_as_if_nothing_had_happened(kind):
    for (inside, *mine), plain in zip(
        run_ranks(_blocked, 3, kind, True), run_ranks(_plain, 3, kind), strict=True
    ):
        assert inside["after"]
        assert mine[0] == plain[0]
        assert all(map(torch.equal, mine[1], plain[1]))
        assert mine[2] == plain[2]


@pytest.mark.parametrize("kind", KINDS)
def test_without_restore_it_is_converge(kind):
    for (inside, *mine), plain in zip(
        run_ranks(_blocked, 3, kind, False), run_ranks(_plain, 3, kind, 15), strict=True
    ):
        assert not inside["after"]
        assert mine[0] == plain[0]
        assert all(map(torch.equal, mine[1], plain[1]))
        assert mine[2] == plain[2]


def _broken(restore):
    run = Run("explorer")
    model, optimizer, scheduler = run.parts()
    seen = []

    def block():
        if dist.get_rank() == 1:
            with torch.no_grad():
                next(model.parameters()).fill_(math.nan)
        try:
            with scheduler.converged(restore=restore):
                seen.append(all(bool(w.isfinite().all()) for w in weights(model)))
                raise KeyError("the user's own")
        except KeyError:
            seen.append(all(bool(w.isfinite().all()) for w in weights(model)))

    run.train(range(20), at=15, block=block)
    return seen, [g["lr"] for g in optimizer.param_groups] == scheduler.get_last_lr()


@pytest.mark.parametrize("restore", [True, False])
def test_a_broken_replica_is_healed_for_good_and_an_error_inside_leaves_order(restore):
    assert run_ranks(_broken, 3, restore) == [([True, True], True)] * 3


def _alone():
    model, _, scheduler = Run("explorer").parts()
    before = _state(model)
    with scheduler.converged():
        return all(map(torch.equal, before, _state(model)))


def test_with_one_replica_nothing_is_touched():
    assert run_ranks(_alone, 1) == [True]


# --- torch.distributed.checkpoint


def app(model, optimizer, scheduler):
    return {
        "model": model.state_dict(),
        "optimizer": get_optimizer_state_dict(model, optimizer),
        "scheduler": scheduler,
    }


def _save_and_go_on(kind, folder, at):
    """Train to the end, saving one shared checkpoint on the way."""
    run = Run(kind)
    model, optimizer, scheduler = run.parts()

    def block():
        with scheduler.converged():
            state_dict_saver.save(app(model, optimizer, scheduler), checkpoint_id=folder)

    rates = run.train(range(STEPS), at, block)
    return rates[at:], _state(model), scheduler.metrics()


def _load_and_go_on(kind, folder, at):
    run = Run(kind)
    model, optimizer, scheduler = run.parts()
    state = app(model, optimizer, scheduler)
    state_dict_loader.load(state, checkpoint_id=folder)
    model.load_state_dict(state["model"])
    set_optimizer_state_dict(model, optimizer, state["optimizer"])
    rates = run.train(range(at, STEPS))
    return rates, _state(model), scheduler.metrics()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at", [15, 24])
def test_a_run_resumed_from_one_shared_checkpoint_is_the_same_to_the_last_bit(
    kind, at, tmp_path
):
    whole = run_ranks(_save_and_go_on, 4, kind, str(tmp_path), at)
    for mine, theirs in zip(
        run_ranks(_load_and_go_on, 4, kind, str(tmp_path), at), whole, strict=True
    ):
        assert mine[0] == theirs[0]
        assert all(map(torch.equal, mine[1], theirs[1]))
        for name in ("losses", "base_lr", "replica_lr", "step", "syncs"):
            assert mine[2][name] == theirs[2][name], name


# --- damage


def _damaged(kind, damage):
    """Load a state that is no good; return what is said, and whether anything changed."""
    run = Run(kind)
    model, optimizer, scheduler = run.parts()
    run.train(range(10))
    with scheduler.converged(restore=True):
        state = scheduler.state_dict()
    file = io.BytesIO()
    torch.save(state, file)
    if damage == "truncated":
        file = io.BytesIO(file.getvalue()[: len(file.getvalue()) // 2])
    before = _state(model), repr(scheduler.state_dict()), repr(optimizer.state_dict())
    try:
        file.seek(0)
        loaded = torch.load(file, weights_only=True)
        if damage == "cut":
            del loaded["ensemble"]
        elif damage == "other schedule":
            other = KINDS[1 - KINDS.index(kind)]
            loaded = Run(other).scheduler.state_dict()
        elif damage == "other groups":
            single = torch.optim.AdamW(model.parameters(), 0.03)
            loaded = hdet.OneCycleAutoLR(single, 0.1, STEPS).state_dict()
            if kind == "explorer":
                loaded = hdet.Explorer(
                    single, explore=[hdet.lr(), hdet.weight_decay()]
                ).state_dict()
        scheduler.load_state_dict(loaded)
        said = "no error"
    except (ValueError, RuntimeError) as error:
        said = str(error)
    after = _state(model), repr(scheduler.state_dict()), repr(optimizer.state_dict())
    same = all(map(torch.equal, before[0], after[0])) and before[1:] == after[1:]
    run.train(range(10, 20))
    return said, same


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("truncated", "zip archive"),
        ("cut", "damaged"),
        ("other schedule", "give what"),
        ("other groups", "must have 2 items|of 2 parameter groups"),
    ],
)
def test_a_bad_checkpoint_is_an_error_on_every_rank_and_changes_nothing(kind, damage, words):
    for said, same in run_ranks(_damaged, 2, kind, damage):
        assert any(word in said for word in words.split("|")), said
        assert same


# --- another replica's state


def _loaded(kind, who):
    run, again = Run(kind), Run(kind)
    run.train(range(T + 2))
    box = [run.scheduler.state_dict()]
    if who == "rank 0's":
        dist.broadcast_object_list(box, 0)
    elif who == "the mean's":
        with run.scheduler.converged():
            box = [run.scheduler.state_dict()]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        again.scheduler.load_state_dict(box[0])
    return [str(w.message) for w in told]


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_that_another_replica_saved_of_itself_is_told(kind):
    first, second = run_ranks(_loaded, 2, kind, "rank 0's")
    assert first == []
    (message,) = second
    assert "what replica 0 saved of itself" in message
    assert "this is replica 1" in message


@pytest.mark.parametrize("who", ["each one's own", "the mean's"])
def test_its_own_state_and_the_means_are_loaded_without_a_word(who):
    assert run_ranks(_loaded, 2, "explorer", who) == [[], []]
