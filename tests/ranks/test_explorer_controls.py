"""What a user holds in hand, on real processes: observe, freeze, bounds, and the log."""

import io
import logging
import math

import pytest
import torch
import torch.distributed as dist
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, ReduceLROnPlateau

import hdet
from tests.helpers import batch, loss_at, small_model, train_ddp, two_groups, weights
from tests.rank_runner import run_ranks

pytestmark = pytest.mark.ranks

STEPS, T = 40, 4
SCHEDULES = {
    "cosine": lambda o: CosineAnnealingLR(o, STEPS + 1),
    "one cycle": lambda o: OneCycleLR(o, [0.2, 0.3], STEPS + 1, cycle_momentum=False),
    "none": lambda o: None,
    "plateau": lambda o: ReduceLROnPlateau(
        o, factor=0.5, patience=0, threshold=10.0, threshold_mode="abs"
    ),
    "plateau of the best": lambda o: ReduceLROnPlateau(
        o, factor=0.5, patience=0, threshold=0.0
    ),
}


class Heard:
    """Gathers what the logger `hdet` is told."""

    def __enter__(self):
        self.lines: list[tuple[str, str]] = []
        self._handler = logging.Handler()
        self._handler.emit = lambda record: self.lines.append(
            (record.levelname, record.getMessage())
        )
        self._log = logging.getLogger("hdet")
        self._level = self._log.level
        self._log.setLevel(logging.INFO)
        self._log.addHandler(self._handler)
        return self

    def __exit__(self, *_):
        self._log.removeHandler(self._handler)
        self._log.setLevel(self._level)


def make(schedule, explore=None, **settings):
    model = small_model()
    optimizer = torch.optim.AdamW(two_groups(model), lr=0.05, weight_decay=0.1)
    calls = []

    def probe():
        calls.append(1)
        x, y = batch(100_000, 0, size=16)
        return (model(x) - y).square().mean()

    explorer = hdet.Explorer(
        optimizer,
        SCHEDULES[schedule](optimizer),
        explore,
        sync_every=T,
        probe=probe,
        model=model,
        **settings,
    )
    return model, optimizer, explorer, calls


# --- observe


class Spiking:
    """Steps a scheduler, and tells an Explorer losses that jump by 100 from a step on."""

    def __init__(self, scheduler, spike_at):
        self._scheduler, self._spike_at, self._steps = scheduler, spike_at, 0

    def step(self, loss):
        self._steps += 1
        if isinstance(self._scheduler, hdet.Explorer):
            self._scheduler.step(loss + 100.0 * (self._steps >= self._spike_at))
        elif self._scheduler is not None:
            self._scheduler.step()


def _trained(schedule, observes, spike_at):
    """Train plainly, or observed; return the end, and what observing has told."""
    model = small_model()
    optimizer = torch.optim.AdamW(two_groups(model), lr=0.05, weight_decay=0.1)
    scheduler = SCHEDULES[schedule](optimizer)
    if observes:
        scheduler = hdet.Explorer(
            optimizer,
            scheduler,
            [hdet.lr(), hdet.weight_decay()],
            sync_every=T,
            probe=lambda: 1 / 0,  # is not called
            model=model,
            mode="observe",
            search=True,
            config=hdet.SearchConfig(evidence_steps=T, evidence_delay=T),
        )
    with Heard() as heard:
        stepped = Spiking(scheduler, spike_at)
        rates = train_ddp(model, optimizer, stepped, dist.get_rank(), range(STEPS))
        told = None
        if isinstance(scheduler, hdet.Explorer):
            scheduler.converge()
            with scheduler.converged():
                told = scheduler.metrics(), scheduler.found(), repr(scheduler), heard.lines
    moments = [s["exp_avg_sq"].clone() for s in optimizer.state.values()]
    return rates, [*weights(model), *moments], told


def _observed(schedule, spike_at):
    return _trained(schedule, False, spike_at), _trained(schedule, True, spike_at)


@pytest.mark.parametrize("schedule", ["cosine", "one cycle", "none"])
def test_observing_is_training_without_explorer_bit_for_bit(schedule):
    for rank, (plain, observed) in enumerate(run_ranks(_observed, 3, schedule, math.inf)):
        assert observed[0] == plain[0]
        assert all(map(torch.equal, observed[1], plain[1]))
        metrics, found, shown, lines = observed[2]
        assert metrics["phase"] == "observe"
        assert metrics["syncs"] == STEPS // T
        assert len(metrics["losses"]) == 3
        # Nothing differs, so nothing says that another decay were better; of the rates' scale
        # the updates tell, and of their ratio nothing.
        would = metrics["would_be"]
        assert [would[f"weight_decay/{g}"] for g in (0, 1)] == pytest.approx([0.1, 0.1])
        factor = would["lr/0"]
        assert factor == would["lr/1"]
        assert 0.7 < factor < 1.42
        assert metrics["values"]["lr/0"] == 1.0
        written = {"one cycle": [0.2, 0.3]}.get(schedule, [0.05, 0.05])
        assert found == pytest.approx([factor * rate for rate in written])
        if rank == 0:
            # An update of the steps 4 to 8 is scored from 12 to 16, and so on.
            told = [line for _, line in lines if "cosine of old updates" in line]
            assert [line.split(":")[0] for line in told] == ["step 16", "step 28", "step 40"]
        assert shown.startswith("Explorer: observe; step 40, syncs 10, replicas 3\n")
        assert len(lines) == (STEPS // T if rank == 0 else 0)


def test_what_observing_would_have_done_is_told_and_not_done():
    (plain, observed), other = run_ranks(_observed, 2, "none", 31)
    assert all(map(torch.equal, observed[1], plain[1]))
    metrics, found, _, lines = observed[2]
    level, line = next(line for line in lines if "back to the averaged weights" in line[1])
    assert level == "INFO"
    assert line.startswith("step 32: would be: loss spike")
    assert "lr factor 1 -> 0.333" in line
    assert metrics["values"]["lr/0"] == 1.0
    assert metrics["base_lr"] == [0.05, 0.05]
    assert other[1][2][3] == []


def _towards(steps):
    """Observe `steps` steps at a rate that is far too low; return the factors it would set."""
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    config = hdet.SearchConfig(evidence_steps=4, evidence_delay=2)
    explorer = hdet.Explorer(
        optimizer, sync_every=2, model=model, mode="observe", config=config
    )
    factors = []
    for step in range(steps):
        train_ddp(model, optimizer, explorer, dist.get_rank(), range(step, step + 1))
        would = explorer.metrics().get("would_be")
        factors += [would["lr/0"]] if would else []
    return factors


def test_each_observation_starts_anew_from_the_users_own_values():
    # From the first score on each sync says "larger"; all together say more than `hold_span`,
    # which bounds one run. A score is complete after 2 + 4 + 2 + 4 steps.
    for factors in run_ranks(_towards, 2, 60):
        assert factors[4] == 1.0
        assert factors[-1] == pytest.approx(math.exp(0.35), rel=1e-9)


def _plateau(mode, freeze_after):
    model, optimizer, explorer, _ = make("plateau", mode=mode, freeze_after=freeze_after)
    train_ddp(model, optimizer, explorer, dist.get_rank(), range(3 * T))
    return [held.now for held in explorer._schedule.groups], explorer.get_last_lr()


@pytest.mark.parametrize(("mode", "freeze_after"), [("observe", None), ("tune", T)])
def test_reduce_on_plateau_sees_the_same_loss_on_all_ranks(mode, freeze_after):
    first, second = run_ranks(_plateau, 2, mode, freeze_after)
    assert first == second
    if mode == "observe":
        assert first[1] == [0.0125, 0.0125]


def _own_losses(settings):
    _, optimizer, explorer, _ = make("plateau of the best", **settings)
    losses = [(3.0, 2.0, 1.0), (1.0, 3.0, 2.0)][dist.get_rank()]
    for t in range(3 * T):
        optimizer.step()
        explorer.step(losses[t // T])
    return explorer.get_last_lr()


@pytest.mark.parametrize("settings", [{"explore": []}, {"warmup_steps": 100}])
def test_reduce_on_plateau_goes_by_the_mean_where_replicas_do_not_meet(settings):
    # Of means 2, 2.5 and 1.5 one is no better; of the ranks' own none is, or two.
    assert run_ranks(_own_losses, 2, settings) == [[0.025, 0.025]] * 2


# --- freeze


def _frozen(explore, stop, freeze_after):
    """Train past the freeze; return what was seen, and the end of a run resumed at `stop`."""
    rank = dist.get_rank()
    chosen = [getattr(hdet, name)() for name in explore]

    def end(model, optimizer, explorer):
        kept = explorer.metrics()
        kept = [kept[key] for key in ("phase", "values", "base_lr", "replica_lr", "syncs")]
        return weights(model), kept, [g["lr"] for g in optimizer.param_groups]

    settings = {"freeze_after": freeze_after, "search": False}
    model, optimizer, explorer, calls = make("cosine", chosen, **settings)
    with Heard() as heard:
        train_ddp(model, optimizer, explorer, rank, range(stop))
        file = io.BytesIO()
        torch.save([part.state_dict() for part in (model, optimizer, explorer)], file)
        before = len(calls)
        train_ddp(model, optimizer, explorer, rank, range(stop, STEPS))
    whole = end(model, optimizer, explorer)

    model, optimizer, explorer, again = make("cosine", chosen, **settings)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    for part, state in zip((model, optimizer, explorer), saved, strict=True):
        part.load_state_dict(state)
    train_ddp(model, optimizer, explorer, rank, range(stop, STEPS))
    return whole, end(model, optimizer, explorer), (before, len(again)), heard.lines


@pytest.mark.filterwarnings("ignore:.*fewer than")
@pytest.mark.filterwarnings("ignore:.*cannot tell")
@pytest.mark.parametrize("stop", [18, 20, 33])
@pytest.mark.parametrize("explore", [["lr"], ["lr", "betas"]])
def test_after_the_freeze_all_replicas_are_one_and_resume_is_bit_identical(explore, stop):
    ranks = run_ranks(_frozen, 2, explore, stop, 18)
    for (mine, kept, rates), (theirs, again, same_rates), calls, _ in ranks:
        assert all(map(torch.equal, mine, theirs))
        assert (kept, rates) == (again, same_rates)
        phase, _, base, per_replica, syncs = kept
        # The first sync from step 18 on is that of step 20.
        assert (phase, syncs) == ("frozen", 5)
        assert per_replica == [[rate] * 2 for rate in base]
        assert rates == base
        # The probe was called at 5 syncs, in the first run and the resumed one together.
        assert sum(calls) == 5
    assert all(map(torch.equal, ranks[0][0][0], ranks[1][0][0]))
    assert ranks[0][0][2] == ranks[1][0][2]
    last = ranks[0][3][-1][1]
    assert last.startswith("step 20: frozen at lr/0 ")
    assert ranks[1][3] == []


def _held():
    """Return each step's rates over the schedule alone, from the freeze on."""
    model, optimizer, explorer, _ = make("one cycle", search=False, freeze_after=8)
    train_ddp(model, optimizer, explorer, dist.get_rank(), range(8))
    rates = train_ddp(model, optimizer, explorer, dist.get_rank(), range(8, STEPS))
    other = torch.optim.AdamW(two_groups(small_model()), lr=explorer.found()[0])
    plain = OneCycleLR(other, explorer.found(), STEPS + 1, cycle_momentum=False)
    alone = []
    for _ in range(STEPS):
        alone.append([g["lr"] for g in other.param_groups])
        other.step()
        plain.step()
    return rates, alone[8:]


@pytest.mark.filterwarnings("ignore:.*fewer than")
def test_found_is_the_peak_with_which_a_plain_run_has_the_same_rates():
    for rates, alone in run_ranks(_held, 2):
        assert rates == [pytest.approx(row) for row in alone]


def _thawed():
    model, optimizer, explorer, _ = make("cosine", freeze_after=8, search=False)
    train_ddp(model, optimizer, explorer, dist.get_rank(), range(10))
    state = explorer.state_dict()
    model, optimizer, explorer, _ = make("cosine", search=False)
    explorer.load_state_dict(state)
    return explorer.metrics()["phase"], explorer.get_last_lr(), state["frozen"]


@pytest.mark.filterwarnings("ignore:.*fewer than")
def test_a_frozen_state_loaded_without_a_freeze_explores_again():
    (phase, first, frozen), (_, second, _) = run_ranks(_thawed, 2)
    assert frozen
    assert phase == "track"
    assert first != second


def _another_warm_up():
    model, optimizer, explorer, _ = make("none", warmup_steps=4 * T, search=False)
    train_ddp(model, optimizer, explorer, dist.get_rank(), range(T))
    state = explorer.state_dict()
    _, _, explorer, _ = parts = make("none", warmup_steps=2 * T, search=False)
    explorer.load_state_dict(state)
    train_ddp(*parts[:3], dist.get_rank(), range(T, 4 * T))
    return explorer.metrics()["syncs"]


def test_a_state_from_within_the_warm_up_goes_on_with_the_warm_up_asked_for():
    assert run_ranks(_another_warm_up, 2) == [2, 2]


def _disagreeing(settings):
    model, optimizer, explorer, _ = make("cosine", **settings[dist.get_rank()])
    try:
        train_ddp(model, optimizer, explorer, dist.get_rank(), range(1))
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.filterwarnings("ignore:.*fewer than")
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ([{}, {"freeze_after": 7}], "freeze_after ("),
        ([{}, {"mode": "observe"}], "mode ("),
    ],
)
def test_the_ranks_have_to_agree_on_mode_and_freeze(settings, words):
    for message in run_ranks(_disagreeing, 2, settings):
        assert "do not agree" in message
        assert words in message


# --- bounds and the log


def _bounded(search):
    model, optimizer, explorer, _ = make(
        "none", [hdet.lr(bounds=(0.8, 1.1)), hdet.weight_decay()], search=search
    )
    factors = []
    with Heard() as heard:
        for t in range(STEPS):
            rates = train_ddp(model, optimizer, explorer, dist.get_rank(), range(t, t + 1))
            factors += [rate / 0.05 for rate in rates[0]]
    return factors, heard.lines, explorer.metrics()


@pytest.mark.filterwarnings("ignore:.*cannot tell")
@pytest.mark.parametrize("search", [False, True])
def test_no_replica_ever_trains_with_a_factor_outside_the_bounds(search):
    ranks = run_ranks(_bounded, 4, search)
    for factors, _, _ in ranks:
        assert 0.8 - 1e-12 <= min(factors) <= max(factors) <= 1.1 + 1e-12
    # The climb begins at the lower bound.
    assert search or len({factor for factors, _, _ in ranks for factor in factors}) >= 4


@pytest.mark.filterwarnings("ignore:.*cannot tell")
def test_every_decision_is_one_line_with_its_evidence_on_the_first_rank_only():
    (_, lines, metrics), *others = run_ranks(_bounded, 4, False)
    assert [told for _, told, _ in others] == [[], [], []]
    assert len(lines) == STEPS // T
    for k, (level, line) in enumerate(lines):
        assert level == "INFO" or "averaged weights" in line
        assert line.startswith(f"step {(k + 1) * T}: ")
    _, last = lines[-1]
    for name in ("lr/0", "weight_decay/0"):
        assert f" {metrics['values'][name]:.3g}, " in last
        assert f"(t = {metrics['t'][name]:.2g}, loss slope" in last


# --- local mode


def _local(explore, settings):
    """Train with each replica's own gradient; return rates, weights and metrics."""
    rank = dist.get_rank()
    model, optimizer, explorer, _ = make("cosine", explore, shared_gradients=False, **settings)
    rates = []
    for t in range(STEPS):
        optimizer.zero_grad()
        loss = loss_at(model, t, rank)
        loss.backward()
        rates.append([g["lr"] for g in optimizer.param_groups])
        optimizer.step()
        explorer.step(loss)
    return rates, weights(model), explorer.metrics()


def test_in_local_mode_observing_is_averaging_alone():
    baseline = run_ranks(_local, 2, [], {})
    for mine, theirs in zip(
        run_ranks(_local, 2, None, {"mode": "observe"}), baseline, strict=True
    ):
        assert mine[0] == theirs[0]
        assert all(map(torch.equal, mine[1], theirs[1]))
        assert mine[2]["would_be"] == {"lr/0": 1.0, "lr/1": 1.0}


@pytest.mark.filterwarnings("ignore:.*fewer than")
@pytest.mark.filterwarnings("ignore:.*cannot tell")
def test_in_local_mode_a_freeze_ends_the_spread_and_not_the_averaging():
    first, second = run_ranks(_local, 2, None, {"freeze_after": 10, "search": False})
    assert first[0][:12] != second[0][:12]
    assert first[0][12:] == second[0][12:]
    assert all(map(torch.equal, first[1], second[1]))  # the last step is a sync's
    assert first[2]["syncs"] == STEPS // T
    assert first[2]["phase"] == "frozen"
