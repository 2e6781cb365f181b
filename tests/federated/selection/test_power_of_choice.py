import pytest

from hdet.federated.selection import ClientReport, PowerOfChoice

from .population import play

IDS = list("abcdef")
SIZES = dict(zip(IDS, (1, 2, 3, 4, 5, 15), strict=True))


def losses(values):
    return {client: ClientReport(loss, 1) for client, loss in values.items()}


def test_of_the_candidates_those_with_the_highest_loss_are_chosen():
    selector = PowerOfChoice(4)
    asked = selector.candidates(IDS)
    assert len(asked) == 4
    probes = losses({client: float(ord(client)) for client in asked})
    assert selector.select(1, IDS, 2, probes) == asked[2:]


def test_candidates_are_drawn_by_size():
    selector = PowerOfChoice(1, "rpow-d", SIZES)
    trials = 600
    counts = dict.fromkeys(IDS, 0)
    for round in range(1, trials + 1):
        counts[selector.select(round, IDS, 1)[0]] += 1
    expected = {c: trials * size / 30 for c, size in SIZES.items()}
    square = sum((counts[c] - n) ** 2 / n for c, n in expected.items())
    # Chi-squared with 5 degrees of freedom: 20.5 is its 99.9 % point.
    assert square < 20.5


def test_as_many_candidates_as_are_chosen_is_a_draw_by_size_whatever_the_losses():
    one, other = PowerOfChoice(3, sizes=SIZES), PowerOfChoice(3, sizes=SIZES)
    for round in range(1, 20):
        asked = one.candidates(IDS)
        assert other.candidates(IDS) == asked
        rising = {c: float(ord(c)) for c in asked}
        falling = {c: -float(ord(c)) for c in asked}
        assert one.select(round, IDS, 3, losses(rising)) == asked
        assert other.select(round, IDS, 3, losses(falling)) == asked


def test_sizes_come_from_reports_and_the_unknown_are_taken_for_the_mean():
    selector = PowerOfChoice(6, sizes={"a": 10})
    selector.candidates(IDS)
    reports = {"a": ClientReport(1.0, 20), "b": ClientReport(1.0, 40)}
    selector.select(1, IDS, 2, reports)
    rows = selector._registry.rows(IDS)
    assert selector._registry.data_sizes(rows).tolist() == [20, 40, 30, 30, 30, 30]


def test_without_any_size_all_are_alike():
    selector = PowerOfChoice(2)
    assert selector._registry.data_sizes(selector._registry.rows(IDS)).tolist() == [1] * 6


def test_rpow_tries_everybody_first_and_then_goes_by_the_loss_of_the_last_participation():
    selector = PowerOfChoice(6, "rpow-d")
    assert selector.candidates(IDS) == []
    seen = []
    for round in range(1, 4):
        chosen = selector.select(round, IDS, 2)
        seen += chosen
        selector.feedback(round, losses({c: float(ord(c)) for c in chosen}))
    assert sorted(seen) == IDS
    assert selector.select(4, IDS, 2) == ["e", "f"]
    selector.feedback(4, losses({"e": 0.0, "f": 0.0}))
    assert selector.select(5, IDS, 2) == ["c", "d"]


def test_in_rpow_one_that_did_not_answer_has_the_mean_loss():
    selector = PowerOfChoice(3, "rpow-d")
    clients = ["a", "b", "c"]
    selector.select(1, clients, 3)
    selector.feedback(1, losses({"a": 1.0, "b": 3.0}))
    assert selector.select(2, clients, 2) == ["b", "c"]


def test_candidates_that_did_not_answer_are_replaced_by_others():
    selector = PowerOfChoice(4)
    asked = selector.candidates(IDS)
    others = [c for c in IDS if c not in asked]
    chosen = selector.select(1, IDS, 3, losses({asked[0]: 1.0}))
    assert chosen == sorted([asked[0], *others])
    # Those that were silent come last, and only if all else is taken.
    chosen = selector.select(1, IDS, 4, losses({asked[0]: 1.0}))
    assert set(chosen) > {asked[0], *others}


@pytest.mark.parametrize(
    ("variant", "batches", "probes"),
    [("pow-d", None, 2), ("cpow-d", 1, 2), ("rpow-d", None, 0)],
)
def test_the_variants_say_what_to_measure(variant, batches, probes):
    selector = PowerOfChoice(2, variant)
    assert selector.probe_batches == batches
    assert len(selector.candidates(IDS)) == probes


def test_ties_do_not_go_by_position():
    first = [PowerOfChoice(6, "rpow-d", seed=s).select(1, IDS, 1)[0] for s in range(30)]
    assert len(set(first)) > 3
    equal = losses(dict.fromkeys(IDS, 1.0))
    chosen = set()
    for seed in range(30):
        selector = PowerOfChoice(6, seed=seed)
        selector.candidates(IDS)
        chosen |= set(selector.select(1, IDS, 1, equal))
    assert len(chosen) > 3


def test_more_candidates_are_greedier():
    ids = list(range(20))
    mean = []
    for d in (4, 8, 20):
        chosen = play(PowerOfChoice(d), ids, 30)
        mean.append(sum(sum(row) for row in chosen) / 120)
    # The population's losses rise with the position.
    assert mean[0] < mean[1] < mean[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"candidates": 0}, r"candidates=0\)` must be a whole number of at least 1: start"),
        ({"candidates": 2.5}, r"candidates=2.5\)`"),
        (
            {"candidates": 3, "variant": "pow"},
            r"variant='pow'\)` must be \"pow-d\", \"cpow-d\"",
        ),
        (
            {"candidates": 3, "sizes": {"a": 0}},
            r"sizes=\{'a': 0\}\)` must be finite .* above 0",
        ),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        PowerOfChoice(**arguments)


def test_more_to_choose_than_candidates_is_refused_with_the_remedy():
    with pytest.raises(
        ValueError, match=r"count=3\)` .*candidates=2: construct .*candidates=6"
    ):
        PowerOfChoice(2).select(1, IDS, 3, {})
    assert PowerOfChoice(2).select(1, ["a", "b"], 3, {}) == ["a", "b"]
