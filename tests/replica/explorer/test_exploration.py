import copy
import io
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hdet
from hdet.replica.ensemble.gathered import Gathered
from hdet.replica.ensemble.permutation import permutation
from hdet.replica.explorer.config import SearchConfig
from hdet.replica.explorer.exploration import Exploration
from hdet.seeding import generator
from hdet.state import Entries
from tests.helpers import small_model, two_groups

CONFIG = SearchConfig()
OWN_WIDTH = math.log(1.3)


class Box:
    temperature = 2.0
    p = 0.3
    shift = 0.5


def requests(which):
    box = Box()
    made = {
        "lr": lambda: hdet.lr(),
        "one lr": lambda: hdet.lr(groups=[0]),
        "bounded lr": lambda: hdet.lr(bounds=(0.5, 2.0)),
        "one bounded lr": lambda: hdet.lr(groups=[0], bounds=(0.5, 2.0)),
        "weight_decay": lambda: hdet.weight_decay(groups=[0]),
        "decays": lambda: hdet.weight_decay(),
        "beta0": lambda: hdet.betas(0),
        "beta1": lambda: hdet.betas(1),
        "temperature": lambda: hdet.attribute(box, "temperature"),
        "p": lambda: hdet.attribute(box, "p", bounds=(0.0, 0.9)),
        "shift": lambda: hdet.attribute(box, "shift", bounds=(-1.0, 1.0), scale="linear"),
    }
    return [made[name]() for name in which]


def explore(
    which=("lr",), replicas=4, seed=0, search=False, paired=True, trials=True, config=CONFIG
):
    optimizer = torch.optim.AdamW(two_groups(small_model()), lr=0.1, weight_decay=0.1)
    dimensions = [d for r in requests(which) for d in r.dimensions(optimizer)]
    return Exploration(
        dimensions,
        replicas,
        seed,
        permutation,
        search=search,
        paired=paired,
        trials=trials,
        config=config,
    )


def log_values(exploration, index=0):
    return [math.log(v) for v in exploration.values()[index]]


def decide(exploration, training, probes, share=1.0):
    """Decide on a sync at which nobody is broken."""
    gathered = Gathered(losses=training, probes=probes)
    return exploration.decide(gathered, [share] * len(exploration.dimensions))


def sync(exploration, losses, loss=None, share=1.0):
    """Do one sync with these losses, which are the probe's too where there is one."""
    training = losses if loss is None or not exploration._paired else [loss] * len(losses)
    return decide(exploration, training, losses, share)


def load(exploration, state):
    exploration.assign(exploration.parsed(Entries(state, "Explorer")))


def fall_quietly(exploration, syncs=12):
    """Give falling losses that say nothing of the values: then their noise is known."""
    for k in range(syncs):
        sync(exploration, [3.0 - k / syncs] * exploration.replicas)


def better_if_larger(exploration, index=0, by=0.1, loss=2.0):
    return [loss - by * z for z in exploration.offsets()[index]]


def better_if_smaller(exploration, index=0, by=0.1, loss=2.0):
    return better_if_larger(exploration, index, -by, loss)


# --- who plays what


@pytest.mark.parametrize("replicas", [2, 3, 4, 7])
def test_replicas_stand_evenly_and_symmetrically_around_the_base_value(replicas):
    exploration = explore(replicas=replicas)
    grid = [2 * r / (replicas - 1) - 1 for r in range(replicas)]
    for _ in range(5):
        for index, base in enumerate(exploration.coordinates):
            row = exploration.offsets()[index]
            assert sorted(row) == pytest.approx(grid)
            expected = [base + OWN_WIDTH * z for z in row]
            assert log_values(exploration, index) == pytest.approx(expected)
        sync(exploration, better_if_larger(exploration))


def test_without_a_search_values_begin_where_the_user_has_put_them():
    exploration = explore(["lr", "temperature"])
    assert exploration.base_values() == [1.0, 1.0, 2.0]
    assert exploration.search is None
    assert not exploration.held


def test_each_rate_has_a_permutation_and_its_own_spread():
    exploration, orders = explore(replicas=8), set()
    for _ in range(6):
        first, second = exploration.offsets()
        assert first != second
        orders.add(tuple(first))
        expected = [exploration.coordinates[0] + OWN_WIDTH * z for z in first]
        assert log_values(exploration) == pytest.approx(expected)
        sync(exploration, [1.0] * 8)
    assert len(orders) == 6


def test_the_permutations_are_of_the_seed_and_the_sync():
    assert explore(seed=1, replicas=8).offsets() == explore(seed=1, replicas=8).offsets()
    assert explore(seed=1, replicas=8).offsets() != explore(seed=2, replicas=8).offsets()


# --- where the values go


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("replicas", [2, 3, 4, 8])
@pytest.mark.parametrize("optimum", [math.log(2), math.log(0.1), 3.0])
def test_on_a_quadratic_the_rate_ends_near_its_optimum(optimum, replicas, seed):
    exploration = explore(["one lr"], replicas, seed)
    g = generator(seed, "noise")
    for _ in range(80):
        noise = (0.01 * torch.randn(replicas, generator=g)).tolist()
        places = log_values(exploration)
        sync(exploration, [(x - optimum) ** 2 + e for x, e in zip(places, noise, strict=True)])
    assert exploration.coordinates[0] == pytest.approx(optimum, abs=0.2)
    assert exploration.guard.rollbacks == 0


def test_each_of_several_values_finds_its_own_optimum():
    exploration = explore(["lr", "temperature", "p"], 8)
    aims = [0.5, 1.6, 4.0, 0.6]
    places = [d.to_scale(a) for d, a in zip(exploration.dimensions, aims, strict=True)]
    g = generator(0, "noise")
    for _ in range(150):
        losses = (0.002 * torch.randn(8, generator=g)).tolist()
        for d, row, aim in zip(
            exploration.dimensions, exploration.values(), places, strict=True
        ):
            losses = [x + (d.to_scale(v) - aim) ** 2 for x, v in zip(losses, row, strict=True)]
        sync(exploration, losses)
    for d, value, aim in zip(
        exploration.dimensions, exploration.base_values(), places, strict=True
    ):
        assert d.to_scale(value) == pytest.approx(aim, abs=0.3), d.name


def test_larger_rates_that_do_better_raise_the_rate_and_smaller_ones_lower_it():
    for losses, sign in ((better_if_larger, 1), (better_if_smaller, -1)):
        exploration = explore(["one lr"])
        sync(exploration, losses(exploration))
        assert exploration.coordinates[0] == pytest.approx(sign * CONFIG.track_step, rel=1e-3)


def test_without_a_probe_downward_moves_of_a_rate_are_damped_and_upward_ones_are_not():
    def moved(losses, which, paired):
        exploration = explore(which, paired=paired)
        before = exploration.coordinates[0]
        sync(exploration, losses(exploration))
        return exploration.coordinates[0] - before

    up = moved(better_if_larger, ["one lr"], False)
    assert up == pytest.approx(moved(better_if_larger, ["one lr"], True))
    down = moved(better_if_smaller, ["one lr"], False)
    assert down == pytest.approx(-0.3 * up)
    assert moved(better_if_smaller, ["one lr"], True) == pytest.approx(-up)
    # Any other hyperparameter moves either way alike.
    assert moved(better_if_smaller, ["temperature"], False) == pytest.approx(
        -moved(better_if_larger, ["temperature"], False)
    )


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_decaying_schedule_damps_the_moves_of_rates_and_of_nothing_else(share):
    def moved(which, share):
        exploration = explore(which)
        before = list(exploration.coordinates)
        for _ in range(5):
            sync(exploration, better_if_larger(exploration), 2.0, share)
        return exploration.coordinates[0] - before[0]

    assert moved(["one lr"], 1.0) > 0.3
    assert moved(["one lr"], share) == pytest.approx(share**4 * moved(["one lr"], 1.0))
    assert moved(["temperature"], share) == moved(["temperature"], 1.0) > 0.3


def test_equal_losses_move_nothing():
    exploration = explore(["lr", "temperature"])
    before = list(exploration.coordinates)
    fall_quietly(exploration)
    assert exploration.coordinates == before


# --- exclusions and rollbacks


def diverging(exploration):
    """Return losses where the two largest rates have diverged, and who they are."""
    row = exploration.offsets()[0]
    order = sorted(range(len(row)), key=lambda r: row[r])
    losses = [2.0] * len(row)
    losses[order[0]], losses[order[1]] = 1.99, 1.98
    losses[order[-1]], losses[order[-2]] = 90.0, 70.0
    return losses, sorted(order[-2:]), row[order[1]]


def test_a_diverged_replicas_value_is_left_for_the_best_ones():
    exploration = explore(["one lr"], 6)
    fall_quietly(exploration)
    losses, excluded, best = diverging(exploration)
    values, before = log_values(exploration), exploration.coordinates[0]
    decision = sync(exploration, losses, loss=2.0)
    assert decision.excluded == excluded
    assert not decision.rollback
    assert exploration.guard.exclusions == 1
    assert exploration.coordinates[0] == pytest.approx(before + OWN_WIDTH * best)
    assert max(log_values(exploration)) < min(values[r] for r in excluded)


def test_a_replica_without_a_finite_loss_is_excluded_where_larger_rates_are_worse():
    exploration = explore(["one lr"], 6)
    fall_quietly(exploration)
    row = exploration.offsets()[0]
    losses = better_if_smaller(exploration, by=0.01)
    losses[row.index(max(row))] = math.inf
    assert sync(exploration, losses, loss=2.0).excluded == [row.index(max(row))]


def test_a_rollback_lowers_all_rates_to_a_third_and_nothing_else():
    exploration = explore(["lr", "temperature"])
    for k in range(20):
        sync(exploration, [3.0 - 0.1 * k] * 4)
    places = list(exploration.coordinates)
    decision = sync(exploration, [2.9] * 4)
    assert decision.rollback
    assert decision.note.startswith("loss spike (")
    assert "; back to the averaged weights, lr factor " in decision.note
    moved = [new - old for new, old in zip(exploration.coordinates, places, strict=True)]
    assert moved == pytest.approx([-math.log(3), -math.log(3), 0.0])
    assert exploration.guard.rollbacks == 1


def test_losses_that_are_all_nan_ask_for_a_rollback():
    exploration = explore(["lr"])
    assert sync(exploration, [math.nan] * 4).rollback
    assert exploration.coordinates == pytest.approx([-math.log(3)] * 2)


@pytest.mark.parametrize("name", ["lr", "bounded lr"])
def test_where_nothing_is_spread_all_replicas_have_the_base_values(name):
    exploration = explore([name, "temperature", "beta0"])
    exploration.set_spread(False)
    for _ in range(3):
        for base, row in zip(exploration.base_values(), exploration.values(), strict=True):
            assert row == [base] * 4
        decision = sync(exploration, [1.0, 2.0, 3.0, 4.0])
        assert decision.slopes.t == [0.0] * 5
        assert exploration.base_values() == pytest.approx([1.0, 1.0, 2.0, 0.9, 0.9])
    exploration.set_spread(True)
    assert len(set(exploration.values()[0])) == 4


def test_the_bounds_of_a_factor_hold_at_a_rollback_and_when_tried_again():
    low, high = 0.5, 2.0
    exploration = explore(["one bounded lr"])

    def told(losses, loss=None):
        sync(exploration, losses, loss)
        for base, row in zip(exploration.base_values(), exploration.values(), strict=True):
            assert low <= min(base, *row) <= max(base, *row) <= high
        return exploration.base_values()[0]

    tops = [told(better_if_larger(exploration, loss=3 - 0.1 * k)) for k in range(12)]
    assert tops[-1] == high
    # Implausible losses: each rollback takes two thirds, and the bound cuts the second short.
    fallen = [told([1e6] * 4), told([math.inf] * 4)]
    assert fallen == pytest.approx([high / 3, low])
    assert exploration.guard.rollbacks == 2
    back = [told([1.9] * 4) for _ in range(4)]
    assert back == pytest.approx([low, low, high, high])


# --- whatever happens

# As large as float32 goes: sums and squares of such losses are finite in float64.
single = st.floats(width=32, allow_nan=True, allow_infinity=True)
everything = ("bounded lr", "weight_decay", "beta0", "temperature", "p", "shift")


@settings(max_examples=150, deadline=None)
@given(
    st.integers(2, 5),
    st.booleans(),
    st.lists(st.tuples(st.lists(single, min_size=5, max_size=5), single), max_size=30),
)
def test_values_stay_within_bounds_whatever_the_losses(replicas, paired, syncs):
    exploration = explore(everything, replicas, paired=paired)

    def check():
        rows = exploration.values()
        bases = exploration.base_values()
        for d, base, row in zip(exploration.dimensions, bases, rows, strict=True):
            low, high = d.bounds
            assert all(low <= value <= high for value in [base, *row]), d.name
            assert math.isfinite(d.to_scale(base))

    check()
    for losses, loss in syncs:
        decision = decide(exploration, [loss] * replicas, losses[:replicas])
        assert all(-1 <= sign <= 1 for sign in decision.confidence)
        check()
    assert exploration.syncs == len(syncs)


@pytest.mark.parametrize("losses", [[1e200, 1e199, 2.0, 3.0], [1e308] * 4])
def test_a_float64_model_that_diverges_does_not_end_the_run(losses):
    exploration = explore(["lr"])
    for _ in range(3):
        sync(exploration, losses, loss=max(losses))
        sync(exploration, [2.0] * 4)


@pytest.mark.parametrize("push", [better_if_larger, better_if_smaller])
def test_a_value_driven_to_its_bound_comes_back_at_once(push):
    back = better_if_smaller if push is better_if_larger else better_if_larger
    for name in everything:
        exploration = explore([name])
        fall_quietly(exploration)
        for _ in range(400):
            sync(exploration, push(exploration), loss=2.0)
        to_scale, before = exploration.dimensions[0].to_scale, exploration.base_values()[0]
        for _ in range(3):
            sync(exploration, back(exploration), loss=2.0)
        moved = abs(to_scale(exploration.base_values()[0]) - to_scale(before))
        assert moved == pytest.approx(3 * CONFIG.track_step, rel=0.02), name


def test_eight_dimensions_on_four_replicas_move_slowly_and_stay_finite():
    exploration = explore(["lr", "decays", "beta0", "beta1"])
    assert len(exploration.dimensions) == 8
    fall_quietly(exploration)
    g = generator(0, "noise")
    for _ in range(50):
        before = list(exploration.coordinates)
        decision = sync(exploration, (1 + 0.01 * torch.randn(4, generator=g)).tolist())
        assert decision.slopes.confounded
        assert len(decision.confidence) == len(exploration.values()) == 8
        for new, old in zip(exploration.coordinates, before, strict=True):
            assert abs(new - old) <= CONFIG.track_step
    assert exploration.guard.rollbacks == 0


def test_where_no_replica_is_left_all_go_back_to_the_averaged_weights():
    exploration = explore(["lr"])
    nothing = [math.nan] * 4
    gathered = Gathered(nothing, nothing, broken=[0, 1, 2, 3])
    decision = exploration.decide(gathered, [1.0, 1.0])
    assert decision.rollback
    assert decision.note.startswith("no replica's weights, buffers and optimizer state are")


def test_a_config_moves_what_it_names():
    config = SearchConfig(climb_start=0.5, track_step=0.0, divergence_threshold=math.inf)
    searching = explore(["one lr"], search=True, config=config)
    assert searching.base_values() == pytest.approx([0.5])
    held = explore(["one lr"], 6, config=config)
    fall_quietly(held)
    losses, *_ = diverging(held)
    assert sync(held, losses, loss=2.0).excluded == []
    assert held.base_values() == [1.0]


# --- state


@pytest.mark.parametrize("stop", [0, 3, 12])
@pytest.mark.parametrize("through_a_file", [False, True])
def test_a_resumed_exploration_goes_on_identically(stop, through_a_file):
    def go_on(exploration, syncs):
        g = generator(5, "losses", syncs.start)
        seen = []
        for _ in syncs:
            noise = (0.05 * torch.randn(4, generator=g)).tolist()
            logs = log_values(exploration)
            losses = [(x - 0.5) ** 2 + e for x, e in zip(logs, noise, strict=True)]
            decision = sync(exploration, losses)
            seen.append((exploration.values(), decision, exploration.state_dict()))
        return seen

    which = ["lr", "temperature", "beta0"]
    exploration = explore(which, seed=4)
    go_on(exploration, range(stop))
    state = exploration.state_dict()
    if through_a_file:
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        state = torch.load(file, weights_only=True)
    again = explore(which, seed=9)
    load(again, state)
    assert again.state_dict() == exploration.state_dict()
    assert again.values() == exploration.values()
    assert go_on(again, range(stop, 30)) == go_on(exploration, range(stop, 30))


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("syncs", -1, "syncs` = -1, which must lie in"),
        ("seed", 0.5, "seed` = 0.5, which must be a whole number"),
        ("coordinates", {"lr/0": 0.0}, "must be of the hyperparameters explored here"),
        (
            "coordinates.lr/0",
            math.nan,
            "lr/0` = nan, which must be a finite number",
        ),
        ("coordinates.lr/1", 7.0, r"must stand within its bounds, \[0.5, 2.0\]"),
        ("held", 1, "held` = 1, which must be True or False"),
        ("rates.rollbacks", -3, "rollbacks` = -3"),
        ("rates.tracker.count", 0, "tracker.best` = .*must be at least inf"),
        ("rates.tracker.best", math.inf, "tracker.best` = inf, which must lie in"),
        ("rates.tracker.first", 1e300, "tracker.first` = 1e"),
        ("rates.tracker.noise", -1.0, "tracker.noise` = -1.0"),
        ("rates.tracker.weight", 1.5, r"tracker.weight` = 1.5, which must lie in \[0, 1\]"),
        ("rates.recovery.row", 4, r"recovery.row` = 4, which must lie in \[0, 3\]"),
        ("rates.recovery.loss", math.nan, "recovery.loss` = nan"),
        ("rates.recovery.lowered", -0.5, "recovery.lowered` = -0.5"),
        ("rates.recovery.before", {"count": 1}, "without `rates.recovery.before.first`"),
    ],
)
def test_a_damaged_state_is_refused_and_changes_nothing(path, value, words):
    exploration = explore(["bounded lr"])
    fall_quietly(exploration, 7)
    before = exploration.state_dict()
    damaged = copy.deepcopy(before)
    *inside, key = path.split(".")
    entry = damaged
    for name in inside:
        entry = entry[name]
    entry[key] = value
    with pytest.raises(ValueError, match=words):
        load(exploration, damaged)
    assert exploration.state_dict() == before


def test_a_state_of_before_there_were_new_levels_loads():
    exploration = explore(["lr"])
    fall_quietly(exploration, 7)
    state = exploration.state_dict()
    del state["rates"]["recovery"]
    again = explore(["lr"], seed=3)
    load(again, state)
    loaded = again.state_dict()
    assert loaded["rates"].pop("recovery") == explore(["lr"]).state_dict()["rates"]["recovery"]
    assert loaded == state
