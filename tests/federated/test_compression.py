import io
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hdet.federated.compression import (
    ErrorFeedback,
    client_ratios,
    compressed_bytes,
    error_decay,
    round_budget,
    score_weights,
)

floats = st.floats(-100, 100, width=32)


def test_the_budget_begins_with_everything_and_falls_along_a_half_cosine():
    budget = [round_budget(t, 100) for t in range(1, 101)]
    assert budget[:2] == [1.0, pytest.approx(0.28)]
    assert budget[-1] == pytest.approx(0.12)
    assert budget[1:] == sorted(budget[1:], reverse=True)
    assert sum(budget[1:]) / 99 == pytest.approx(0.2)
    assert round_budget(3, 5) == pytest.approx(0.2 * (1 + 0.4 * math.cos(math.pi / 3)))


def test_the_budget_has_a_floor_and_stays_after_the_last_round():
    assert round_budget(50, 50, average=0.05) == 0.08
    assert round_budget(70, 50) == round_budget(50, 50)
    assert round_budget(2, 2) == round_budget(9, 1) == pytest.approx(0.28)
    assert round_budget(2, 50, average=1.0) == 1.0


def test_the_decay_of_errors_by_hand():
    assert error_decay(0.28) == pytest.approx(0.9364)
    assert error_decay(1.0) == 0.85


def test_ratios_are_proportional_to_scores_below_their_ceilings():
    scores = {"a": 0.2, "b": 0.4, "c": 0.6, "d": 0.0}
    ratios = client_ratios(scores, 0.3, {"c": 0.5})
    assert ratios == pytest.approx({"a": 0.2, "b": 0.4, "c": 0.5, "d": 0.005})
    assert client_ratios({"a": 0.1, "b": 0.9}, 1.0)["b"] == 1.0
    assert client_ratios({"a": 0.0, "b": 0.0}, 0.3) == {"a": 0.3, "b": 0.3}
    assert client_ratios({}, 0.3) == {}


def test_weights_are_shares_of_the_scores_and_a_floor_leaves_nobody_out():
    assert score_weights({"a": 1.0, "b": 3.0, "c": 0.0}) == {"a": 0.25, "b": 0.75, "c": 0.0}
    assert score_weights({"a": 1.0, "b": 0.0}, floor=0.25) == {"a": 0.8, "b": 0.2}
    assert score_weights({"a": 0.0, "b": 0.0}) == {"a": 0.5, "b": 0.5}
    assert score_weights({}) == {}


@given(st.lists(st.floats(0, 10), min_size=1, max_size=20), st.floats(0, 1))
def test_weights_sum_to_one(scores, floor):
    weights = score_weights(dict(enumerate(scores)), floor)
    assert math.fsum(weights.values()) == pytest.approx(1)
    assert floor < 1e-6 or min(weights.values()) > 0


def test_bytes_count_the_positions():
    # 10 of 1000: 40 bytes of values and 40 of positions, against 125 of bits.
    assert compressed_bytes(10, 1000) == 80
    assert compressed_bytes(100, 1000) == 400 + 125
    assert compressed_bytes(1000, 1000) == 4000
    assert compressed_bytes(0, 1000) == 0
    assert compressed_bytes(1, 1 << 33) == 12
    assert compressed_bytes(10, 1000, value_bytes=2) == 60


def test_the_largest_entries_are_sent_and_the_rest_is_remembered():
    memory = ErrorFeedback()
    sent = memory.compress("a", torch.tensor([1.0, -5.0, 3.0, 0.5]), 0.5, decay=0.5)
    assert sent.indices.tolist() == [1, 2]
    assert sent.values.tolist() == [-5.0, 3.0]
    assert sent.dense().tolist() == [0.0, -5.0, 3.0, 0.0]
    assert sent.bytes == compressed_bytes(2, 4)
    # 1 and 0.5 come back at half: [2.5, 1, 1, 2.25].
    again = memory.compress("a", torch.tensor([2.0, 1.0, 1.0, 2.0]), 0.5, decay=0.5)
    assert again.dense().tolist() == [2.5, 0.0, 0.0, 2.25]
    assert memory.compress("b", torch.tensor([1.0, 2.0]), 0.5, decay=1).values.tolist() == [2.0]


def test_entries_are_told_apart_however_large_or_small():
    for scale in (1e25, 1e-30):
        delta = scale * torch.tensor([1.0, 3.0, 2.0])
        sent = ErrorFeedback().compress(0, delta, 0.4, decay=1.0)
        assert sent.indices.tolist() == [1]


def test_at_least_one_entry_is_sent_and_the_delta_is_left_alone():
    delta = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    sent = ErrorFeedback().compress(0, delta, 0.01, decay=1.0)
    assert sent.values.tolist() == [4.0]
    assert delta.tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_everything_sent_leaves_nothing_to_remember():
    memory = ErrorFeedback()
    delta = torch.tensor([1.0, 0.0, -2.0])
    assert torch.equal(memory.compress(0, delta, 1.0, decay=1.0).dense(), delta)
    assert memory.state_dict()["errors"][0].tolist() == [0.0, 0.0, 0.0]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(floats, min_size=6, max_size=6), min_size=1, max_size=6), st.data())
def test_with_no_decay_nothing_is_lost(deltas, data):
    memory = ErrorFeedback()
    total = torch.zeros(6, dtype=torch.float64)
    for delta in deltas:
        ratio = data.draw(st.floats(0.01, 1))
        update = torch.tensor(delta, dtype=torch.float64)
        sent = memory.compress("a", update, ratio, decay=1.0)
        assert len(sent.values) == max(1, int(6 * ratio))
        total += sent.dense()
    total += memory.state_dict()["errors"][0]
    assert total.tolist() == pytest.approx([sum(x) for x in zip(*deltas, strict=True)])


def test_curvature_prefers_flat_directions_where_it_is_known():
    delta = torch.tensor([2.0, 2.1, 1.0, 3.0])
    flat = torch.tensor([-10.0, 0.1, math.nan, math.nan])
    # Ranks 0.4, 44.1, 1, 9.
    sent = ErrorFeedback().compress(0, delta, 0.75, 1.0, curvature=flat)
    assert sent.indices.tolist() == [1, 2, 3]
    zero = torch.tensor([math.nan, 0.0, math.nan, math.nan])
    assert ErrorFeedback().compress(0, delta, 0.3, 1.0, curvature=zero).indices.tolist() == [1]


def test_a_run_resumed_from_a_saved_state_goes_on_bit_for_bit():
    memory, resumed = ErrorFeedback(), ErrorFeedback()
    for client in ("a", 3):
        memory.compress(client, torch.tensor([1.0, 2.0, 3.0]), 0.4, decay=0.9)
    file = io.BytesIO()
    torch.save(memory.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for client in ("a", 3, "new"):
        delta = torch.tensor([0.1, 0.2, 0.3])
        one, other = (m.compress(client, delta, 0.4, 0.9).dense() for m in (memory, resumed))
        assert torch.equal(one, other)


def test_a_damaged_state_is_refused():
    one = torch.ones(3)
    for state, message in (
        ({}, "without `ids`"),
        ({"ids": [1]}, "without `errors`"),
        ({"ids": [1], "errors": []}, "`errors` = .* must have 1 items, and has 0"),
        ({"ids": [1, 1], "errors": [one, one]}, "`ids` = .* must hold each client once"),
        ({"ids": [1.5], "errors": [one]}, "`ids` = .* ints and strings"),
        ({"ids": [1], "errors": [one * math.nan]}, r"`errors.0` = .* must be finite"),
        ({"ids": [1], "errors": [one], "lengths": [4]}, r"`errors.0` = .* of shape \(4,\)"),
    ):
        memory = ErrorFeedback()
        memory.compress("a", torch.tensor([1.0, 2.0]), 0.5, decay=1.0)
        with pytest.raises(ValueError, match=message):
            memory.load_state_dict(state)
        assert memory.state_dict()["ids"] == ["a"]


def test_a_state_without_lengths_is_an_older_one():
    memory = ErrorFeedback()
    memory.load_state_dict({"ids": ["a"], "errors": [torch.tensor([0.0, 2.0])]})
    sent = memory.compress("a", torch.tensor([1.0, 1.0]), 0.5, decay=1.0)
    assert sent.dense().tolist() == [0.0, 3.0]


def test_a_faulty_update_is_refused_and_changes_nothing():
    memory = ErrorFeedback()
    memory.compress("a", torch.tensor([1.0, 2.0, 3.0]), 0.4, decay=1.0)
    before = memory.state_dict()["errors"][0]
    faulty: list[tuple[Any, str]] = [
        (
            (torch.tensor([1.0, math.nan, 0.0]), 0.5, 1.0),
            r"delta='a'\)` has entries that are not",
        ),
        ((torch.tensor([1.0, 2.0]), 0.5, 1.0), r"delta=2\)` must have 3 entries, as before"),
        ((torch.ones(3), 0.0, 1.0), r"ratio=0.0\)` must lie in \(0, 1\]"),
        ((torch.ones(3), 0.5, 1.5), r"decay=1.5\)` must lie in \[0, 1\]"),
        ((torch.ones(3), 0.5, 1.0, torch.ones(2)), r"curvature=2\)` must have 3 entries"),
        ((torch.tensor([1, 2, 3]), 0.5, 1.0), "must hold floating-point numbers"),
    ]
    for arguments, message in faulty:
        with pytest.raises(ValueError, match=message):
            memory.compress("a", *arguments)
        assert torch.equal(memory.state_dict()["errors"][0], before)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: round_budget(0, 5), r"round_budget\(number=0\)` must be a whole number"),
        (lambda: round_budget(1, 0), r"rounds=0\)`"),
        (lambda: round_budget(1, 5, 0.0), r"average=0.0\)` must lie in \(0, 1\]"),
        (lambda: error_decay(1.2), r"theta=1.2\)`"),
        (lambda: client_ratios({"a": -1.0}, 0.5), r"scores=-1.0\)` of 'a' must be finite"),
        (lambda: client_ratios({"a": 1.0}, 2.0), r"theta=2.0\)`"),
        (lambda: score_weights({"a": math.nan}), r"scores=nan\)` of 'a'"),
        (lambda: score_weights({"a": 1e308, "b": 1e308}), r"scores=1e\+308\)` of 'a' must be"),
        (lambda: score_weights({"a": 1.0}, -1.0), "'floor' must be finite and at least 0"),
        (lambda: compressed_bytes(5, 4), r"kept=5\)` must lie in \[0, 4\]"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
