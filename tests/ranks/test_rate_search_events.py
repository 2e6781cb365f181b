"""What may happen in a search for the rate: evaluations, other loops, what others change."""

import copy
import math
import re

import pytest
import torch
import torch.distributed as dist
from torch.optim.lr_scheduler import ConstantLR, MultiplicativeLR, ReduceLROnPlateau

import hdet
from tests.helpers import loss_at, weights
from tests.rank_runner import run_ranks
from tests.ranks.searched import Run, T, same
from tests.ranks.test_explorer_controls import Heard

pytestmark = pytest.mark.ranks

END = 130
LONG = END + 46  # where no schedule hurries the warm-up
WHOLE = ["climb", "settle", "trial", "warmup", "track"]


def _order(phases):
    return list(dict.fromkeys(phases))


def _alike(model):
    """Return whether all replicas have the same weights, to the last bit."""
    mine = torch.cat([w.flatten() for w in weights(model)])
    everyone = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, mine)
    return all(torch.equal(mine, other) for other in everyone)


# --- all replicas as one


def _evaluated(phase, how):
    plain, run = Run(norm=True), Run(norm=True)
    plain.train(range(END))
    stop = plain.phases.index(phase) + 7
    run.train(range(stop))
    before = run.explorer.metrics()["phase"], _alike(run.model)
    if how == "converge":
        run.explorer.converge()
        inside, rates = _alike(run.model), []
    else:
        with run.explorer.converged(restore=how == "restore"):
            inside = _alike(run.model)
            rates = [g["lr"] for g in run.optimizer.param_groups]
            with torch.no_grad():
                run.model.eval()
                loss_at(run.model, 0, 0)
                run.model.train()
    run.train(range(stop, END))
    return {
        "before": before,
        "inside": inside,
        "rates": rates,
        "phases": run.phases[stop:],
        "unchanged": same(run.end(), plain.end()),
        "plain": plain.phases[stop:],
    }


@pytest.mark.parametrize("how", ["restore", "go on", "converge"])
def test_in_the_climb_an_evaluation_leaves_the_search_as_it_is(how):
    ranks = run_ranks(_evaluated, 2, "climb", how)
    for found in ranks:
        assert found["before"] == ("climb", True)
        assert found["inside"]
        assert found["rates"] == ranks[0]["rates"]
        assert found["phases"] == found["plain"]
        assert found["unchanged"] or how != "restore"


@pytest.mark.parametrize("how", ["go on", "converge"])
def test_in_a_trial_all_are_one_again_and_the_trial_begins_anew(how):
    ranks = run_ranks(_evaluated, 2, "trial", how)
    for found in ranks:
        assert found["before"] == ("trial", False)
        assert found["inside"]
        assert found["rates"] == ranks[0]["rates"]
        # 7 steps of the trial are lost, and one more settles.
        assert found["phases"][:17] == ["settle"] + ["trial"] * 16


def test_a_trial_does_not_notice_an_evaluation():
    ranks = run_ranks(_evaluated, 2, "trial", "restore")
    for found in ranks:
        assert found["before"] == ("trial", False)
        assert found["inside"]
        assert found["rates"] == ranks[0]["rates"]
        assert found["phases"] == found["plain"]
        assert found["unchanged"]


def _evaluated_at_every_step():
    run = Run()
    for step in range(END):
        run.train(range(step, step + 1))
        with run.explorer.converged(restore=True):
            pass
    return run.phases


def test_a_search_ends_though_every_step_is_evaluated():
    for phases in run_ranks(_evaluated_at_every_step, 2):
        assert _order(phases) == WHOLE


def _saved_in_an_evaluation():
    run, again = Run(norm=True), Run(norm=True)
    run.train(range(END))
    stop = run.phases.index("trial") + 7
    run = Run(norm=True)
    run.train(range(stop))
    with run.explorer.converged(restore=True):
        states = run.model.state_dict(), run.optimizer.state_dict(), run.explorer.state_dict()
        states = copy.deepcopy(states)
    again.model.load_state_dict(states[0])
    again.optimizer.load_state_dict(states[1])
    again.explorer.load_state_dict(states[2])
    alike = _alike(again.model)
    again.train(range(stop, END))
    return again.phases, alike


def test_what_is_saved_while_a_trial_is_set_aside_begins_it_anew():
    for phases, alike in run_ranks(_saved_in_an_evaluation, 2):
        assert alike
        assert phases[:17] == ["settle"] + ["trial"] * 16
        assert phases[-1] == "track"


# --- where there are no trials


def _climbing(settings):
    with Heard() as heard:
        run = Run(**settings)
        run.train(range(END))
    return run.phases, run.rates, heard.lines, run.explorer.metrics()["values"]


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"by_hand": True}, "no DistributedDataParallel in `model`.*`model=ddp`"),
        ({"probed": False, "search": True}, "no probe to compare.*hdet.probe"),
    ],
)
def test_without_trials_the_search_ends_with_the_climb_and_one_line_says_why(settings, why):
    (phases, rates, lines, values), other = run_ranks(_climbing, 2, settings)
    assert _order(phases) == ["climb", "settle", "warmup", "track"]
    found = phases.index("track")
    assert rates[:found] == other[1][:found]
    assert rates[found] != other[1][found]
    said = [line for level, line in lines if level == "INFO" and "end with the climb" in line]
    assert len(said) == 1
    assert re.search(why, said[0])
    assert other[2] == []


@pytest.mark.parametrize(
    "settings",
    [{"search": False}, {"explore": ["weight_decay"]}, {"probed": False}, {"warmup_steps": 4}],
)
def test_there_is_no_search_where_none_is_asked_for(settings):
    for phases, *_ in run_ranks(_climbing, 2, settings):
        assert _order(phases) == ["track"]


def test_a_search_after_a_warm_up_begins_where_the_warm_up_ends():
    for phases, rates, _, _ in run_ranks(_climbing, 2, {"warmup_steps": 8, "search": True}):
        assert _order(phases[8:]) == WHOLE
        assert rates[7][0] > 0.2 / 25
        assert rates[8] == pytest.approx([0.2 / 1000] * 2)


# --- what others change


def _scaled(how):
    run = Run(schedule="none", explore=["lr"])
    beside = ConstantLR(run.optimizer, 0.5, total_iters=20) if how == "beside" else None

    def before(t):
        if how == "by hand" and t == 10:
            for group in run.optimizer.param_groups:
                group["lr"] *= 0.5
        if beside is not None and 0 < t < 20:
            beside.step()

    run.train(range(END), before)
    held = [group.now for group in run.explorer._schedule.groups]
    return run.phases, run.rates, held


@pytest.mark.parametrize("how", ["by hand", "beside"])
def test_what_others_change_in_the_search_counts_after_it(how):
    for phases, rates, held in run_ranks(_scaled, 2, how):
        assert _order(phases) == WHOLE
        assert rates[15][0] > rates[8][0]
        expected = 0.025 if how == "by hand" else 0.05 * 0.5
        assert held == pytest.approx([expected] * 2)


def _each_its_own():
    run = Run("one group", "none", ["lr"])
    group = run.optimizer.param_groups[0]
    factors = []

    def scale(*_):  # by the size of the step's batch, as some loops do
        factors.append(1 + (len(run.rates) + dist.get_rank()) % 7 / 10)
        group["lr"] *= factors[-1]

    def back(*_):
        group["lr"] /= factors[-1]

    run.optimizer.register_step_pre_hook(scale)
    run.optimizer.register_step_post_hook(back)
    run.train(range(LONG))
    return run.phases, run.explorer.found()


def test_rates_that_each_rank_scales_and_scales_back_keep_the_ranks_together():
    # In a trial the rates differ, and so does what rounding leaves of them.
    ranks = run_ranks(_each_its_own, 3)
    assert ranks == [ranks[0]] * 3
    assert _order(ranks[0][0]) == WHOLE


def _risen():
    run = Run("one group", lambda o: MultiplicativeLR(o, lambda t: 1.01), ["lr"])
    with pytest.warns(UserWarning, match=r"searched around 0\.05, the highest .* risen to"):
        run.train(range(LONG))


def test_a_schedule_that_rises_above_what_was_searched_around_is_warned_of():
    run_ranks(_risen, 2)


def _plateau():
    run = Run(
        "adamw",
        lambda o: ReduceLROnPlateau(
            o, factor=0.5, patience=0, threshold=10.0, threshold_mode="abs"
        ),
    )
    run.train(range(LONG))
    return run.phases, [group.now for group in run.explorer._schedule.groups]


def test_a_plateau_is_looked_for_after_the_search():
    for phases, held in run_ranks(_plateau, 2):
        syncs = (LONG - phases.index("track")) // T
        assert syncs >= 2
        # The first sync sets the best, each later one is no better by the threshold.
        assert held == pytest.approx([0.05 * 0.5 ** (syncs - 1)] * 2)


def _with_scaler(at, bad_rank):
    """Train with a GradScaler; the gradients of a rank overflow at a step."""
    with Heard() as heard:
        run = Run("adamw")
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
        phases = []
        for t in range(END):
            run.optimizer.zero_grad()
            loss = loss_at(run.ddp, t, dist.get_rank())
            phases.append(run.explorer.metrics()["phase"])
            huge = phases.count("trial") == 5 if at == "trial" else t == at
            huge = huge and dist.get_rank() == bad_rank
            scaler.scale(loss * float("inf") if huge else loss).backward()
            scaler.step(run.optimizer)
            scaler.update()
            try:
                run.explorer.step(loss)
            except RuntimeError as error:
                return phases, heard.lines, str(error)
    return phases, heard.lines, ""


def test_a_skip_before_the_trials_leaves_them_out():
    (phases, lines, error), _ = run_ranks(_with_scaler, 2, 9, 1)
    assert error == ""
    assert _order(phases) == ["climb", "settle", "warmup", "track"]
    assert any("no trials: a GradScaler has skipped" in line for _, line in lines)


def test_a_skip_in_a_trial_is_an_error_on_all_ranks():
    for phases, _, error in run_ranks(_with_scaler, 2, "trial", 1):
        assert phases.count("trial") == 16
        assert "a GradScaler has skipped steps while each replica trained alone" in error
        assert "Train in bfloat16 without a scaler, or with `search=False`" in error


# --- what is told


def _told():
    with Heard() as heard:
        run = Run(freeze_after=10)
        shown, bases = [], []

        def look(t):
            shown.append(repr(run.explorer))
            bases.append(run.explorer.metrics()["base_lr"])

        run.train(range(END), look)
    return {
        "phases": run.phases,
        "rates": run.rates,
        "lines": [line for level, line in heard.lines if level == "INFO"],
        "shown": shown,
        "bases": bases,
        "found": run.explorer.found(),
        "metrics": run.explorer.metrics(),
    }


def test_a_freeze_waits_for_the_search_and_all_of_it_is_told():
    first, second = run_ranks(_told, 2)
    phases, found = first["phases"], first["phases"].index("warmup")
    assert _order(phases) == [*WHOLE, "frozen"]
    frozen = phases.index("frozen")
    # The schedule falls at step 61, and the steps of the warm-up after it count for two.
    ones = 62 - found
    assert 0 < ones < 40
    assert frozen == phases.index("track") + T == found + ones + math.ceil((80 - ones) / 2) + T
    assert first["rates"][frozen:] == second["rates"][frozen:]
    for t in range(found, phases.index("track")):
        assert first["bases"][t] == first["rates"][t]
    assert second["lines"] == []
    climbed, trial, over, *rest = first["lines"]
    assert "the climb ends at lr factor " in climbed
    assert "trial 1, loss " in trial
    assert " before, by lr factor " in trial
    assert over.startswith(f"step {found}: the search is over: learning rate ")
    assert rest[-1].startswith(f"step {frozen}: frozen at lr/0 ")
    assert first["shown"][found - 1].startswith("Explorer: trial; step ")
    values = list(first["metrics"]["values"].values())
    assert first["found"] == pytest.approx([0.2 * value for value in values])


def _bounded():
    run = Run(explore=[hdet.lr(bounds=(0.02, 0.2))])
    run.train(range(END))
    return run.phases, run.rates, dict(run.explorer.metrics()["values"])


def test_no_replica_leaves_the_bounds_in_a_search():
    for phases, rates, values in run_ranks(_bounded, 4):
        searched = rates[: phases.index("warmup")]  # on the rate as written
        assert len(searched) < END
        low, high = 0.02 * 0.2, 0.2 * 0.2
        assert all(low - 1e-12 <= x <= high + 1e-12 for row in searched for x in row)
        assert all(0.02 <= value <= 0.2 for value in values.values())


def _told_nothing(spikes):
    """Search and train without losses; return the probe's calls at each step, and phases."""
    run = Run("one group", tells=False)
    calls = []

    def spike(t):
        calls.append(run.calls)
        if spikes and t == 150:
            with torch.no_grad():
                for parameter in run.model.parameters():
                    parameter.mul_(30)

    run.train(range(180), spike)
    return calls, run.phases, run.explorer.metrics()


@pytest.mark.parametrize("spikes", [False, True])
def test_without_losses_the_probe_tells_of_a_spike(spikes):
    for calls, phases, metrics in run_ranks(_told_nothing, 2, spikes):
        assert phases[-1] == "track"
        over = phases.index("track")
        # One rate is the same on all replicas; the probe is asked at each sync all the same.
        assert calls[-1] - calls[over] >= (180 - over) // T - 1
        assert metrics["losses"] == [pytest.approx(math.nan, nan_ok=True)] * 2
        assert metrics["rollbacks"] == spikes


def test_with_losses_no_probe_is_asked_where_replicas_are_equal():
    def calls(counts):
        (_, before), (_, after) = counts
        return after - before

    for counts in run_ranks(_counted, 2):
        assert calls(counts) == 0


def _counted():
    run = Run("one group")
    counts = []
    for part in (range(120), range(120, 180)):
        run.train(part)
        counts.append((run.phases[-1], run.calls))
    assert counts[0][0] == "track"
    return counts
