"""`Explorer` on real processes while the world changes: levels, outliers, huge gradients."""

import logging
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import hdet
from hdet.replica.explorer import reference as explorer_reference
from hdet.seeding import generator
from tests.helpers import WIDTH, loss_at, small_model
from tests.rank_runner import run_ranks
from tests.ranks.test_explorer import probe_at

pytestmark = pytest.mark.ranks

RANKS, T = 4, 5


@dataclass(frozen=True)
class Event:
    """Something that happens to the losses, from one step to before another.

    Attributes:
        name: what.
        first: step at which it begins.
        last: step before which it is over.
        rank: whom it happens to; None for all, the probe included.
    """

    name: str
    first: int
    last: int
    rank: int | None


# What is told in place of a loss; its gradient stays what it was.
TOLD: dict[str, Callable[[Tensor], Tensor | float]] = {
    "+0.5": lambda x: x + 0.5,
    "+10": lambda x: x + 10,
    "-3": lambda x: x - 3,
    "x100": lambda x: 100 * x,
    "2 lower": lambda x: x - 2,
    "-100": lambda x: -100.0,
    "1e6": lambda x: 1e6,
    "1e30": lambda x: 1e30,
    "nan": lambda x: math.nan,
    "inf": lambda x: math.inf,
}
LASTING = ["+0.5", "+10", "-3", "x100"]
ONCE = ["-100", "1e6", "1e30", "nan", "inf"]
HUGE = "gradient 1e30"
HARDER = "harder data"


def draw(seed: int, steps: int) -> list[Event]:
    """Return one to four events at random steps, the last of them well before the end."""
    g = generator(seed, "events")

    def whole(low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=g))

    events = []
    for _ in range(whole(1, 5)):
        first, kind = whole(0, steps * 7 // 10), whole(0, 6)
        if kind == 0:
            events.append(Event(LASTING[whole(0, 4)], first, steps, None))
        elif kind == 1:
            events.append(Event("2 lower", first, first + 2 * T, None))
        elif kind == 2:
            events.append(Event(HARDER, first, first + 8 * T, None))
        elif kind == 3:
            # Not before the first sync: then there is nothing to return to.
            events.append(Event(HUGE, max(first, T), max(first, T) + 1, whole(0, RANKS)))
        else:
            rank = whole(0, RANKS) if kind == 4 else None
            events.append(Event(ONCE[whole(0, 5)], first, first + 1, rank))
    return events


def batch(name: str, step: int, size: int, noise: float) -> tuple[Tensor, Tensor]:
    """Return inputs and noisy targets."""
    g = generator(1, name, step)
    x = torch.randn(size, WIDTH, generator=g)
    return x, x.sin().sum(1, keepdim=True) + noise * torch.randn(size, 1, generator=g)


def run(events: list[Event], optimizer_name: str, probing: bool, steps: int) -> dict:
    """Train on this rank; return the loss on held-out data, and what became of the rate."""
    rank, now = dist.get_rank(), [0]
    model = small_model().float()
    make = {
        "adamw": lambda p: torch.optim.AdamW(p, lr=0.02),
        "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    }[optimizer_name]
    parameters = list(model.parameters())
    optimizer = make(parameters)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    def at(step, whom):
        return [e for e in events if e.first <= step < e.last and e.rank in (None, whom)]

    def loss_of(name, step, size, whom):
        active = at(step, whom)
        noise = 1.0 if any(e.name == HARDER for e in active) else 0.1
        x, y = batch(name, step, size, noise)
        loss = (model(x) - y).square().mean()
        told: Tensor | float = loss.detach()
        for event in active:
            if event.name in TOLD:
                told = TOLD[event.name](torch.as_tensor(told))
        return loss, told

    probe = (lambda: loss_of("probe", now[0], 256, None)[1]) if probing else None
    explorer = hdet.Explorer(
        optimizer, schedule, sync_every=T, probe=probe, model=model, search=False
    )
    for step in range(steps):
        now[0] = step
        loss, told = loss_of(f"rank {rank}", step, 32, rank)
        huge = any(e.name == HUGE for e in at(step, rank))
        optimizer.zero_grad()
        (loss * 1e30 if huge else loss).backward()
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = nn.utils.parameters_to_vector(gradients)
        dist.all_reduce(flat)
        nn.utils.vector_to_parameters(flat / RANKS, gradients)
        optimizer.step()
        explorer.step(told)
    with explorer.converged(), torch.no_grad():
        x, y = batch("held out", 0, 1024, 0.0)
        held = float((model(x) - y).square().mean())
    found = explorer.metrics()
    return {
        "held": held,
        "factor": found["values"]["lr/0"],
        "rollbacks": found["rollbacks"],
        "new_levels": found["new_levels"],
    }


def quiet(events: list[Event], optimizer_name: str, probing: bool, steps: int) -> dict:
    """Do the same, and gather what is said; an error is a result too."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    log = logging.getLogger("hdet")
    log.addHandler(handler)
    log.propagate = False
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = run(events, optimizer_name, probing, steps)
    except RuntimeError as error:
        return {"error": str(error), "said": said}
    finally:
        log.removeHandler(handler)
    return found | {"said": said, "warned": [str(w.message) for w in caught]}


# Hand-made, and short: what 20 drawn ones do is in the documentation.
SEQUENCES = {
    "none": ([], "adamw", True),
    "a level": ([Event("+10", 102, 200, None)], "adamw", True),
    "a gradient": ([Event(HUGE, 102, 103, 2)], "adamw", True),
    "an early gradient": ([Event(HUGE, 12, 13, 1)], "sgd", False),
    "outliers": (
        [Event("-100", 3, 4, 1), Event("1e30", 61, 62, 3), Event("nan", 103, 104, 0)],
        "adamw",
        True,
    ),
}


def _all_sequences():
    return {name: quiet(*sequence, steps=200) for name, sequence in SEQUENCES.items()}


@pytest.fixture(scope="module")
def found():
    """What each rank found, by sequence."""
    ranks = run_ranks(_all_sequences, RANKS)
    for name in SEQUENCES:
        results = [{**rank[name], "said": None, "warned": None} for rank in ranks]
        assert all(result == results[0] for result in results), name
    return ranks


def test_rollbacks_are_logged_with_their_reason_on_the_first_replica_only(found):
    for name in SEQUENCES:
        first, *others = (rank[name]["said"] for rank in found)
        assert others == [[], [], []]
        assert (
            sum("back to the averaged weights" in line for line in first)
            == (found[0][name]["rollbacks"])
        )
    spike, trial, level = found[0]["a level"]["said"]
    assert spike.startswith("step 105: loss spike (")
    assert "back to the averaged weights, lr factor " in spike
    assert trial.startswith("step 110: the loss is as high after the rollback")
    assert level.startswith("step 130: the loss stays at 10.")


def test_a_lasting_change_of_the_losss_level_is_accepted_and_warned_of_once(found):
    for rank in found:
        plain, result = rank["none"], rank["a level"]
        assert result["rollbacks"] == result["new_levels"] == 1
        (warned,) = (text for text in result["warned"] if "new level" in text)
        assert "If the data or the loss have changed, this is as it should be" in warned
        assert plain["factor"] / 2 < result["factor"] < plain["factor"] * 2
        assert result["held"] < 2 * plain["held"]


@pytest.mark.parametrize("name", ["a gradient", "an early gradient"])
def test_a_gradient_of_1e30_costs_one_rollback(found, name):
    result = found[0][name]
    assert result["rollbacks"] == 1
    assert any("the rate is tried again" in line for line in result["said"])
    assert result["held"] < 0.5
    assert result["warned"] == []


def test_one_ranks_outliers_beside_a_probe_change_nothing(found):
    same = ["held", "factor", "rollbacks", "new_levels", "said", "warned"]
    assert [found[0]["outliers"][k] for k in same] == [found[0]["none"][k] for k in same]


def _raised(model, step, rank):
    """Return the loss of a step, on another level from step 26 on."""
    return loss_at(model, step, rank) + (10.0 if step >= 26 else 0.0)


def _raised_probe(model, sync):
    return probe_at(model, sync) + (10.0 if sync >= 8 else 0.0)


def _on_ranks():
    model, syncs = small_model(), iter(range(100))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.03)
    explorer = hdet.Explorer(
        optimizer,
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 90),
        sync_every=3,
        probe=lambda: _raised_probe(model, next(syncs)),
        model=model,
        search=False,
    )
    wrapped, rates = DistributedDataParallel(model), []
    for step in range(90):
        optimizer.zero_grad()
        loss = _raised(wrapped, step, dist.get_rank())
        loss.backward()
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            explorer.step(loss)
    return rates, explorer.metrics()


def test_four_ranks_agree_with_the_reference_through_a_rollback_and_a_new_level():
    ranks = run_ranks(_on_ranks, RANKS)
    trace = explorer_reference.train(
        small_model(),
        lambda m: torch.optim.AdamW(m.parameters(), lr=0.03),
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 90),
        _raised,
        _raised_probe,
        explore=lambda _: [hdet.lr()],
        replicas=RANKS,
        total_steps=90,
        T=3,
        search=False,
    )
    assert trace.rollbacks >= 1
    for r, (rates, metrics) in enumerate(ranks):
        assert rates == pytest.approx([step[0][r] for step in trace.rates], rel=1e-7)
        assert metrics["rollbacks"] == trace.rollbacks
        assert metrics["new_levels"] == 1
