"""The search for the learning rate's scale on real ranks, against the reference."""

import math
import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from hdet import SearchConfig
from hdet.replica.explorer import reference
from tests.helpers import loss_at, small_model, weights
from tests.rank_runner import run_ranks
from tests.ranks.searched import OPTIMIZERS, SCHEDULES, STEPS, Run, T, probe_at, requests

pytestmark = pytest.mark.ranks

# So that the rise is less than its most whatever the noise of these batches.
# And so that some old updates are scored in runs so short.
CONFIG = SearchConfig(gain_power=0.5, evidence_steps=4, evidence_delay=3, hold_share=0.1)


def _agrees(name, schedule, explore):
    run = Run(name, schedule, explore, config=CONFIG)
    run.train(range(STEPS))
    assert run.explorer._exploration.cosine != 0  # old updates have been scored
    return run.rates, run.phases, weights(run.model), run.explorer.metrics()


CASES = [
    ("adamw", "one cycle", ["lr"]),
    ("sgd", "cosine", ["lr"]),
    ("one group", "warm-up, then cosine", ["lr"]),
    ("adamw", "none", ["lr", "weight_decay"]),
    ("schedule-free", "none", ["lr"]),
]


@pytest.mark.filterwarnings("ignore:.*cannot tell their effects apart")
@pytest.mark.parametrize(("name", "schedule", "explore"), CASES)
def test_four_ranks_agree_with_the_reference_from_the_climb_to_the_end(name, schedule, explore):
    ranks = run_ranks(_agrees, 4, name, schedule, explore)
    trace = reference.train(
        small_model(),
        OPTIMIZERS[name],
        None if schedule == "none" else SCHEDULES[schedule],
        loss_at,
        probe_at,
        explore=lambda _: requests(explore),
        replicas=4,
        total_steps=STEPS,
        T=T,
        seed=3,
        config=CONFIG,
    )
    for r, (rates, phases, parameters, metrics) in enumerate(ranks):
        expected = [[group[r] for group in step] for step in trace.rates]
        assert list(dict.fromkeys(phases)) == ["climb", "settle", "trial", "warmup", "track"]
        torch.testing.assert_close(
            torch.tensor(rates, dtype=torch.float64),
            torch.tensor(expected, dtype=torch.float64),
            rtol=1e-7,
            atol=0,
        )
        for mine, theirs in zip(parameters, trace.models[r].parameters(), strict=True):
            torch.testing.assert_close(mine, theirs.detach(), rtol=1e-6, atol=1e-8)
        assert list(metrics["values"].values()) == pytest.approx(trace.values[-1], rel=1e-7)


PATIENCE = 2  # seconds, in place of the half hour that torch allows


def _stops_in(phase, step):
    """Train with a loop that rank 1 leaves in a phase; return the phases and the error."""
    group = dist.new_group(timeout=timedelta(seconds=PATIENCE))
    trials = phase == "trial"
    run = Run(by_hand=not trials, probed=trials, search=True, process_group=group)

    def leave(t):
        phases = [*run.phases, run.explorer.metrics()["phase"]]
        if dist.get_rank() == 1 and phases.count(phase) == step:
            raise StopIteration

    # Rank 1's own share of the gradients would be missed first.
    run.by_hand = False
    try:
        run.train(range(STEPS), leave)
    except StopIteration:
        time.sleep(1.5 * PATIENCE)
    except RuntimeError as error:
        return run.phases, str(error)
    return run.phases, None


# Where each trains alone, they meet after the first step.
@pytest.mark.parametrize(("phase", "step"), [("climb", 3), ("trial", 1), ("warmup", 3)])
def test_a_rank_that_stops_in_a_search_is_named(phase, step):
    (phases, error), (_, none) = run_ranks(_stops_in, 2, phase, step)
    assert none is None
    assert phases.count(phase) == step
    assert f"waited {PATIENCE} s at the search at step {len(phases)}" in error
    assert "these did not come: rank 1 (last seen at the " in error


def _meets_nan(phase, resumed):
    """Meet gradients that are NaN on all ranks at the third step of a phase."""
    run, safe, rates = Run(norm=True), [], {}

    def spoil(module, inputs, output):
        return output * math.nan

    t = 0
    while run.phases.count("track") < T:
        now = run.explorer.metrics()
        if now["phase"] == "settle" and not safe:
            safe = weights(run.model)
        spoilt = now["phase"] == phase and run.phases.count(phase) == 2
        if spoilt and resumed:
            again = Run(norm=True)
            again.load(run.saved())
            again.phases = run.phases
            run = again
        handle = run.model.register_forward_hook(spoil) if spoilt else None
        rates = now["values"]
        run.train([t])
        if handle is not None:
            handle.remove()
        t += 1
    after = run.explorer.metrics()
    back = [torch.equal(a, b) for a, b in zip(safe, weights(run.model), strict=True)]
    falls = [after["values"][name] / value for name, value in rates.items()]
    run.train(range(t, t + 2 * T))
    finite = [bool(w.isfinite().all()) for w in weights(run.model)]
    return after["rollbacks"], back, falls, finite


@pytest.mark.parametrize(
    ("phase", "resumed"), [("settle", False), ("warmup", False), ("warmup", True)]
)
def test_where_weights_are_lost_before_the_first_sync_all_go_back_to_those_of_the_climb(
    phase, resumed
):
    for rollbacks, back, falls, finite in run_ranks(_meets_nan, 2, phase, resumed):
        assert rollbacks == 1
        assert back == [True] * len(back) != []
        assert falls == pytest.approx([1 / 3] * 2)
        assert finite == [True] * len(back)
