import copy
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hdet.replica.explorer.config import SearchConfig
from hdet.replica.explorer.rate_search import RateSearch, Turn
from hdet.state import Entries
from tests.state_mutations import mutations

CONFIG = SearchConfig()
START = math.log(CONFIG.climb_start)
WARMUP, SETTLE, TRIAL = CONFIG.restart_warmup, CONFIG.settle_steps, CONFIG.trial_steps
RISE = math.log(2)  # from the mean of what was tried to the rate found
# Steps of the slowest climb, of all that may follow, and a few to begin. An agreement that is
# positive once in eleven steps just keeps m above a tenth of its largest: 0.8 ** 11 < 0.1.
MOST_STEPS = (
    11 * math.ceil((math.log(CONFIG.climb_limit) - START) / (CONFIG.climb_gain * 0.1))
    + 2 * CONFIG.agreement_steps
    + SETTLE
    + CONFIG.max_trials * TRIAL
    + CONFIG.warmup_steps
)


def settling(replicas=4, trials=True, config=CONFIG):
    """Return a search at the end of its climb."""
    search = RateSearch(replicas, trials, config)
    assert search.advance(math.nan).roll_back
    return search


def trying(replicas=4, config=CONFIG):
    """Return a search at the beginning of its first trial."""
    search = settling(replicas, config=config)
    turns = [search.advance(None) for _ in range(config.settle_steps)]
    assert turns == [Turn()] * (config.settle_steps - 1) + [Turn(part=True)]
    return search


def judged(losses, config=CONFIG, initial=6.0):
    """Return a search after a trial with these losses, the turn, and how far x has moved."""
    search = trying(len(losses), config)
    assert search.first_trial
    search.before_trials(initial)
    before = search.log_factor
    turns = [search.advance(None) for _ in range(config.trial_steps)]
    assert turns == [Turn()] * (config.trial_steps - 1) + [Turn(score=True)]
    turn = search.judge(losses)
    return search, turn, search.log_factor - before


# --- climb


def test_the_climb_begins_far_below_the_users_rate_and_keeps_the_weights_of_each_step():
    search = RateSearch(4, True)
    assert search.phase == "climb"
    assert search.log_factor == math.log(1e-3)
    assert search.advance(0.9) == Turn(snapshot=True)
    assert search.shifts() == [0.0] * 4


def test_the_climb_follows_the_lesser_of_the_agreement_and_its_smoothed_value():
    search = RateSearch(4, True)
    # By hand: m = 0.8, then m + (a - m) / 5; moves of 0.6 min(a, m) / 0.8, none below zero.
    smoothed = [0.8, 0.64, 0.592, 0.4136, 0.49088]
    moves = [0.6, 0.0, 0.3, 0.0, 0.36816]
    for agreement, m, move in zip([0.8, 0.0, 0.4, -0.3, 0.8], smoothed, moves, strict=True):
        before = search.log_factor
        search.advance(agreement)
        assert search.state_dict()["smoothed"] == pytest.approx(m)
        assert search.state_dict()["largest"] == 0.8
        assert search.log_factor - before == pytest.approx(move)


@pytest.mark.parametrize("trials", [True, False])
def test_the_rate_falls_where_a_tenth_of_the_largest_agreement_is_left(trials):
    search = RateSearch(4, trials)
    # The first number counts in full, each of the others by a fifth: 0.29 before the last two,
    # then 0.052 and 0.032, the second of which is below 0.05.
    before = m = 0.0
    for k, agreement in enumerate([0.5, 0.4, 0.3, 0.2, 0.1, 0.1, -0.9, -0.05]):
        before, m = search.log_factor, m + (agreement - m) / (5 if k else 1)
        turn = search.advance(agreement)
        assert turn.snapshot == (k < 7)
        assert turn.roll_back == (m <= 0.05) == (k == 7)
        assert ("the updates no longer agree with the gradients" in turn.note) == (k == 7)
    assert search.log_factor == pytest.approx(before - math.log(10))
    assert (search.phase, search.steps) == ("settle", 0)


def test_no_crossing_is_seen_before_there_are_enough_numbers():
    search = RateSearch(4, True)
    turns = [search.advance(-1.0) for _ in range(CONFIG.agreement_steps)]
    assert turns == [Turn(snapshot=True)] * CONFIG.agreement_steps
    assert search.log_factor == START
    assert search.advance(-1.0).roll_back


def test_an_agreement_that_was_rounded_to_above_one_counts_as_one_and_its_state_loads():
    search = RateSearch(4, True)
    search.advance(1.0000001)
    state = search.state_dict()
    assert (state["smoothed"], state["largest"]) == (1.0, 1.0)
    assert search.parsed(Entries(state, "test")).state_dict() == state


@pytest.mark.parametrize("agreement", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_ends_the_climb_at_once(agreement):
    search = RateSearch(4, True)
    search.advance(0.9)
    turn = search.advance(agreement)
    assert turn.roll_back
    assert turn.note.startswith("the climb ends at lr factor 0.00182: a gradient is not finite")
    assert turn.lost
    assert search.log_factor == pytest.approx(START + 0.6 - math.log(10))


def test_the_climb_ends_at_its_limit_where_nothing_stops_it():
    search, turn = RateSearch(4, True), Turn()
    steps = 0
    while search.phase == "climb":
        turn = search.advance(1.0)
        steps += 1
    assert turn.roll_back
    assert turn.note.endswith("nothing stops it")
    # From 1e-3 to the first multiple of 0.6 beyond 1e3, which the last step sees.
    assert steps == math.ceil(math.log(1e6) / 0.6) + 1
    assert search.log_factor == pytest.approx(START + 0.6 * (steps - 1) - math.log(10))


def test_a_step_without_a_number_moves_nothing():
    search = RateSearch(4, True)
    for _ in range(CONFIG.agreement_steps):
        assert search.advance(None) == Turn(snapshot=True)
    assert search.log_factor == START
    search.advance(0.5)
    assert search.state_dict()["smoothed"] == 0.5


def test_weights_that_a_rate_is_too_small_to_move_ask_for_a_larger_one():
    search, turns = RateSearch(4, True), []
    while search.phase == "climb":
        turns.append(search.advance(None))
    assert len(turns) == CONFIG.agreement_steps + math.ceil(math.log(1e6) / 0.6) + 1
    assert turns[-1].roll_back


# --- settle


def test_the_rate_is_warmed_up_again_after_the_moments_were_begun_anew():
    search, seen = settling(3), []
    for _ in range(SETTLE):
        assert search.phase == "settle"
        first, *others = search.shifts()
        assert others == [first] * 2
        seen.append(math.exp(first))
        search.advance(None)
    expected = [min(1.0, (k + 1) / WARMUP) for k in range(SETTLE)]
    assert seen == pytest.approx(expected)


@pytest.mark.parametrize(
    ("replicas", "trials", "most"), [(4, False, 3), (1, True, 3), (4, True, 0)]
)
def test_without_trials_the_rate_is_found_when_it_has_settled(replicas, trials, most):
    search = settling(replicas, trials, SearchConfig(max_trials=most))
    before = search.log_factor
    turns = [search.advance(None) for _ in range(SETTLE)]
    assert turns == [Turn()] * (SETTLE - 1) + [Turn(found=True)]
    assert search.phase == "warmup"
    # Nothing above it was tried, and so it rises to 0.4 of the crossing.
    assert search.log_factor == pytest.approx(before + math.log(4))


# --- trial


@pytest.mark.parametrize(
    ("replicas", "factors"),
    [
        (2, [1, 2.2]),
        (3, [1, 2.2, 4.84]),
        (4, [1, 10 ** (1 / 3), 10 ** (2 / 3), 10]),
        (8, [10 ** (k / 7) for k in range(8)]),
        (64, [10 ** (k / 7) for k in range(8)] * 8),
    ],
)
def test_the_replicas_share_out_a_trials_rates(replicas, factors):
    search = trying(replicas)
    for _ in range(TRIAL // 2):
        search.advance(None)
    assert [math.exp(x) for x in search.shifts()] == pytest.approx(factors)


def test_a_trial_is_a_short_whole_run_with_a_warm_up_and_a_decay():
    search, seen = trying(2), []
    for _ in range(TRIAL):
        low, high = search.shifts()
        assert high - low == pytest.approx(math.log(CONFIG.trial_spacing))
        seen.append(math.exp(low))
        search.advance(None)
    # 16 steps: up in the first 4, down in the last 6.4.
    up = [(k + 1) / 4 for k in range(4)]
    down = [k / 6.4 for k in range(6, 0, -1)]
    assert seen == pytest.approx([*up, *[1.0] * 6, *down])


def test_the_rate_moves_to_the_mean_of_the_rates_weighted_by_their_losses():
    # By hand: losses 3, 1, 2, 9 at 0, h, 2h, 3h, and 6 before. A loss 0.4 (6 - 1) = 2 above the
    # least has a weight of 1/e. The weights are 0.36788, 1, 0.60653, 0.01832, their sum is
    # 1.99273, and the mean (1 + 2 * 0.60653 + 3 * 0.01832) h / 1.99273 = 1.13815 h.
    search, turn, moved = judged([3.0, 1.0, 2.0, 9.0])
    assert moved == pytest.approx(1.13815 * math.log(10) / 3 + RISE, rel=1e-5)
    assert turn.found
    assert search.phase == "warmup"
    assert turn.note == (
        "trial 1, loss 6 before, by lr factor 0.0001: 3, 0.000215: 1, 0.000464: 2, 0.001: 9; "
        "lr factor 0.000479"
    )


@pytest.mark.parametrize(
    ("squares", "power", "rise"),
    [
        ([(5.0, 5.0)], 2.0, 1.0),  # every batch says the same
        ([(6.0, 5.0)], 2.0, 1.44),
        ([(6.0, 5.0)], 1.0, 1.2),
        ([(6.0, 5.0)], 0.0, 1.0),
        ([(8.0, 2.0)], 2.0, 2.0),  # the whole rise
        ([(1.0, 1e-300)], 100.0, 2.0),
        ([(6.0, 5.0), (1.4, 1.0)], 2.0, 1.69),  # the mean gain
        ([(1.0, 1.0 + 1e-12)], 2.0, 1.0),  # rounded
        ([(math.nan, math.nan), (0.0, 0.0), (math.inf, 1.0)], 2.0, 2.0),  # not known
        ([(6.0, 5.0), (math.nan, math.nan)], 2.0, 1.44),
    ],
)
def test_the_rate_rises_as_far_as_a_replicas_own_gradient_is_noise(squares, power, rise):
    search = trying(config=SearchConfig(gain_power=power))
    search.before_trials(6.0)
    for own, shared in squares:
        search.compare_gradients(own, shared)
    again = search.parsed(Entries(search.state_dict(), "Explorer"))
    for one in (search, again):
        before = one.log_factor
        for _ in range(TRIAL):
            one.advance(None)
        one.judge([1.0, 1.0, 1.0, 1.0])
        moved = one.log_factor - before
        assert moved == pytest.approx(math.log(10) / 2 + math.log(rise), abs=1e-9)


def test_the_gain_stands_with_the_evidence():
    search = trying()
    search.before_trials(6.0)
    search.compare_gradients(6.0, 5.0)
    for _ in range(TRIAL):
        search.advance(None)
    assert ": 9; gradient gain 1.2; lr factor " in search.judge([3.0, 1.0, 2.0, 9.0]).note


@pytest.mark.parametrize(
    ("initial", "losses", "place"),
    [
        (6.0, [1.0, 1.0, 1.0, 1.0], 1.5),  # nothing tells them apart
        (3.0, [2.0, 1.0, math.inf, math.inf], 0.77730),  # 1 / (exp(-1.25) + 1)
        (5.0, [math.nan, 1.0, 2.0, 3.0], 1.60835),
        (0.0, [-3.0, -5.0, -3.0, 0.0], 1.09031),
        (2.0, [1e200, 1.0, 3e200, math.inf], 1.0),  # as good as infinite
        (1.5, [1.0, 2.0, 3.0, 4.0], 0.00678),
        # Where nothing is gained the least loss decides, of equal ones the lowest rate.
        (1.0, [2.0, 1.0, 1.5, 1.5], 1.0),
        (0.5, [2.0, 1.0, 1.0, 1.5], 1.0),
        # Where there was no loss before, all that have one count the same.
        (math.nan, [1.0, 2.0, 3.0, math.inf], 1.0),
        (math.inf, [1.0, 2.0, 3.0, math.inf], 1.0),
    ],
)
def test_losses_count_by_what_the_best_has_gained(initial, losses, place):
    search, turn, moved = judged(losses, initial=initial)
    rise = RISE if min(loss for loss in losses if loss == loss) < initial else 0.0
    rise = rise if initial == initial else RISE
    assert moved == pytest.approx(place * math.log(10) / 3 + rise, abs=1e-5)
    assert turn.found


def test_where_no_loss_is_finite_it_is_the_smallest_rate():
    for value in (math.nan, math.inf, 1e308, -1e308):
        _, turn, moved = judged([value] * 4)
        assert turn.found
        assert moved == pytest.approx(0.0)


def test_a_best_rate_at_the_top_is_tried_again_from_there_and_all_trials_count():
    search, turn, moved = judged([4.0, 3.0, 2.0, 1.0], initial=6.0)
    for trial in range(2, CONFIG.max_trials + 1):
        assert turn.part
        assert not turn.found
        assert (search.phase, search.steps) == ("trial", 0)
        assert not search.first_trial
        assert moved == pytest.approx((trial - 1) * math.log(10))
        turns = [search.advance(None) for _ in range(TRIAL)]
        assert turns[-1] == Turn(score=True)
        before = search.log_factor
        turn = search.judge([4.0, 3.0, 2.0, 1.0])
        moved += search.log_factor - before
    assert turn.found
    assert turn.note.startswith(f"trial {CONFIG.max_trials}, ")
    # Of each trial the weights are exp(-1.5), exp(-1), exp(-0.5), 1, so its mean is at
    # (0.36788 + 2 * 0.60653 + 3) h / 2.19754 = 2.08457 h; the three begin at 0, 3h and 6h.
    assert moved == pytest.approx((2.08457 + 3) * math.log(10) / 3 + RISE, rel=1e-5)


@pytest.mark.parametrize(
    ("losses", "again"),
    [
        ([4.0, 2.0, 1.0, 2.9], True),  # 0.4 (6 - 1) = 2 above the least is no difference
        ([4.0, 2.0, 1.0, 3.1], False),
        ([2.9, 2.0, 1.0, 2.9], False),  # the smallest rate is as good
        ([1.0, 2.0, 2.5, 2.9], False),
        ([math.nan, 2.0, 1.0, 2.9], True),
        ([9.0, 8.0, 6.5, 7.0], False),  # nothing is gained
        ([9.0, 8.0, 7.0, 6.5], True),
    ],
)
def test_a_largest_rate_that_is_as_good_as_the_best_is_tried_again_from_there(losses, again):
    search, turn, moved = judged(losses, initial=6.0)
    assert turn.part is again
    assert turn.found is not again
    if again:
        assert moved == pytest.approx(math.log(10))


@pytest.mark.parametrize("initial", [math.nan, math.inf])
def test_without_a_loss_before_only_the_best_rate_is_tried_again(initial):
    assert judged([4.0, 2.0, 1.0, 1.1], initial=initial)[1].found
    assert judged([4.0, 2.0, 1.1, 1.0], initial=initial)[1].part


def test_replicas_at_one_rate_are_averaged_and_none_of_them_may_diverge():
    # Sixteen replicas at eight rates: the second rate is best on the mean, not by one of them.
    losses = [4.0, 2.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 4.0, 3.0, 1.5, 5.0, 6.0, 7.0, 8.0, 9.0]
    spacing = math.log(10) / 7

    def mean(means, scale):
        weights = {k: math.exp((min(means.values()) - x) / scale) for k, x in means.items()}
        return sum(k * w for k, w in weights.items()) / sum(weights.values())

    means = {0: 4.0, 1: 2.5, 2: 2.75, 3: 5.0, 4: 6.0, 5: 7.0, 6: 8.0, 7: 9.0}
    _, _, moved = judged(losses, initial=5.0)
    assert moved == pytest.approx(mean(means, 0.4 * 2.5) * spacing + RISE)
    losses[1] = math.inf
    del means[1]
    _, _, moved = judged(losses, initial=5.0)
    assert moved == pytest.approx(mean(means, 0.4 * 2.25) * spacing + RISE)


def test_a_config_moves_what_it_names():
    config = SearchConfig(trial_tolerance=0.01, max_trials=1, trial_steps=8, trial_levels=2)
    search, turn, moved = judged([2.0, 1.0, 2.0, 1.0], config)
    assert turn.found
    assert moved == pytest.approx(math.log(CONFIG.trial_spacing) + RISE)
    assert RateSearch(4, True, SearchConfig(climb_start=0.1)).log_factor == math.log(0.1)


def test_a_trial_that_was_given_up_begins_again_after_the_next_step():
    search = trying()
    for _ in range(5):
        search.advance(None)
    search.postpone_trial()
    assert search.phase == "settle"
    assert search.shifts() == [0.0] * 4  # warmed up long ago
    assert search.advance(None) == Turn(part=True)
    assert (search.phase, search.steps, search.trial) == ("trial", 0, 0)


def test_a_search_may_be_ended_anywhere_and_stays_there():
    search = trying()
    before = search.log_factor
    assert search.end("enough") == Turn(done=True, note="enough")
    assert (search.phase, search.log_factor) == ("done", before)


# --- warmup


def test_the_rate_that_is_found_is_warmed_up_to_and_then_the_search_is_over():
    search, _, _ = judged([3.0, 1.0, 2.0, 9.0])
    assert search.found
    found, shares, turns = search.log_factor, [], []
    for _ in range(80):
        shares.append([math.exp(x) for x in search.shifts()])
        turns.append(search.advance(None))
    assert shares == [pytest.approx([k / 80] * 4) for k in range(1, 81)]
    assert turns == [Turn()] * 79 + [Turn(done=True)]
    assert (search.phase, search.log_factor) == ("done", found)
    assert search.shifts() == [0.0] * 4


@pytest.mark.parametrize(("held", "steps"), [(0, 41), (21, 51), (60, 71), (78, 80), (80, 80)])
def test_the_warm_up_is_twice_as_fast_while_the_schedule_falls(held, steps):
    # A step that begins on a schedule that fell in the step before counts for two.
    search, _, _ = judged([3.0, 1.0, 2.0, 9.0])
    shares = []
    while search.phase == "warmup":
        shares.append(math.exp(search.shifts()[0]))
        search.advance(None)
        search.decaying = len(shares) > held
    counts = [1 if k <= held else 2 for k in range(len(shares))]
    expected = [min(1.0, sum(counts[: k + 1]) / 80) for k in range(len(counts))]
    assert shares == pytest.approx(expected)
    assert len(shares) == steps


def test_a_schedule_that_has_fallen_before_the_warm_up_makes_it_fast_from_its_first_step():
    search, _, _ = judged([3.0, 1.0, 2.0, 9.0])
    search.decaying, shares = True, []
    while search.phase == "warmup":
        shares.append(math.exp(search.shifts()[0]))
        search.advance(None)
    assert shares == pytest.approx([k / 40 for k in range(1, 41)])


def test_without_a_gain_nothing_speaks_for_more_than_the_best_rate():
    search, _, moved = judged([7.0, 8.0, 9.0, 9.0], initial=6.0)
    assert moved == pytest.approx(0.0)


# --- bounds


def test_the_climb_ends_no_lower_than_any_rate_follows():
    search = RateSearch(4, True, bounds=(math.log(0.3), math.inf))
    search.log_factor = 0.0
    search.advance(math.nan)
    assert search.log_factor == math.log(0.3)


def test_no_rate_above_the_bounds_is_recorded_as_tried():
    search = trying()
    found = search.log_factor
    search.bounds = (-math.inf, found + math.log(2))
    for _ in range(CONFIG.trial_steps):
        search.advance(None)
    search.before_trials(6.0)
    search.judge([3.0, 1.0, 2.0, 1.5])
    tried = search.tried()
    assert tried["factors"] == pytest.approx([math.exp(found), 2 * math.exp(found)])
    assert tried["losses"] == [3.0, 1.5]


def test_with_no_room_below_the_bound_one_trial_is_enough():
    search = trying()
    search.bounds = (-math.inf, search.log_factor)
    search.before_trials(6.0)
    assert search.judge([3.0] * 4).found


# --- whatever happens

agreements = st.one_of(
    st.none(), st.floats(-1, 1), st.sampled_from([math.nan, math.inf, 1.0, 0.1])
)
losses = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True), st.floats(0, 3), st.just(2.0)
)


@settings(max_examples=200, deadline=None)
@given(st.data(), st.integers(1, 20), st.booleans())
def test_any_search_is_short_and_its_rate_finite(data, replicas, trials):
    seen = data.draw(st.lists(agreements, min_size=1, max_size=30))
    scores = data.draw(st.lists(losses, min_size=20, max_size=20))
    search, steps = RateSearch(replicas, trials), 0
    while search.phase != "done":
        shifts = search.shifts()
        assert len(shifts) == replicas
        assert all(math.isfinite(x) for x in shifts)
        turn = search.advance(seen[steps % len(seen)])
        steps += 1
        if turn.part and search.first_trial:
            search.before_trials(scores[0])
        if turn.score:
            turn = search.judge(scores[-replicas:])
        assert turn.done == (search.phase == "done")
        assert math.isfinite(search.log_factor)
    assert steps <= MOST_STEPS


# --- state


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.floats(-1, 1)), min_size=1, max_size=12),
    st.lists(st.floats(0, 3), min_size=4, max_size=4),
    st.integers(0, MOST_STEPS),
)
def test_a_search_that_was_saved_goes_on_identically(seen, scores, stop):
    search, again, step = RateSearch(4, True), RateSearch(4, True), 0
    while search.phase != "done":
        if step == stop:
            again = again.parsed(Entries(search.state_dict(), "Explorer"))
        if step >= stop:
            assert again.state_dict() == search.state_dict()
            assert again.shifts() == search.shifts()
        for one in (search, again) if step >= stop else (search,):
            turn = one.advance(seen[step % len(seen)])
            if turn.part and one.first_trial:
                one.before_trials(2.0)
            if turn.part:
                one.compare_gradients(1.2, 1.0)
            if turn.score:
                one.judge(scores)
        step += 1
    if step > stop:
        assert again.state_dict() == search.state_dict()


def in_phase(phase):
    search = {
        "climb": lambda: RateSearch(4, True),
        "settle": settling,
        "trial": trying,
        "warmup": lambda: judged([3.0, 1.0, 2.0, 9.0])[0],
    }[phase]()
    for agreement in (0.5, 0.4, 0.3):
        search.advance(agreement)
    assert search.phase == phase
    return search


@pytest.mark.parametrize("phase", ["climb", "settle", "trial", "warmup"])
def test_a_damaged_state_is_refused_or_goes_on(phase):
    search = in_phase(phase)
    for what, bad in mutations(search.state_dict()):
        try:
            again = RateSearch(4, True).parsed(Entries(bad, "Explorer"))
        except ValueError:
            continue
        for _ in range(MOST_STEPS):
            assert all(math.isfinite(x) for x in again.shifts()), what
            if again.advance(1.0).score:
                again.judge([4.0, 3.0, 2.0, 1.0])
        assert again.phase == "done", what


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("log_factor", math.nan, "log_factor` = nan"),
        ("log_factor", 701.0, "log_factor` = 701.0"),
        ("steps", TRIAL, rf"steps` = {TRIAL}, which must lie in \[0, {TRIAL - 1}\]"),
        ("trial", CONFIG.max_trials + 1, "trial` = 4"),
        ("initial", math.nan, "initial` = nan"),
        ("tried", [math.nan], "tried.0` = nan"),
        ("tried_losses", [1.0], "must have 0 items, and has 1"),
        ("smoothed", -1.5, "smoothed` = -1.5"),
        ("largest", -0.5, "largest` = -0.5"),
        ("seen", -1, "seen` = -1"),
        ("gains", [0.5], "gains.0` = 0.5"),
    ],
)
def test_an_entry_out_of_its_range_is_refused(key, value, words):
    state = copy.deepcopy(in_phase("trial").state_dict())
    state[key] = value
    with pytest.raises(ValueError, match=words):
        RateSearch(4, True).parsed(Entries(state, "Explorer"))


def test_a_state_in_a_trial_ends_where_there_can_be_none():
    entries = Entries(in_phase("trial").state_dict(), "Explorer")
    alone = RateSearch(1, True).parsed(entries)
    assert alone.shifts() == [0.0]
    assert alone.advance(None) == Turn(found=True)
    risen = in_phase("trial").log_factor + math.log(CONFIG.untried_rise)
    assert alone.log_factor == pytest.approx(risen)
    # With other replicas the rates are shared out anew.
    assert len(RateSearch(6, True).parsed(entries).shifts()) == 6


def test_a_trial_that_was_set_aside_goes_on_where_it_was():
    search = trying()
    for _ in range(5):
        search.advance(None)
    shifts = search.shifts()
    search.postpone_trial()
    search.resume_trial(5)
    assert (search.phase, search.steps) == ("trial", 5)
    assert search.shifts() == shifts
