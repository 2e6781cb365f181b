import pytest

from hdet.replica.explorer.attribution import Slopes
from hdet.replica.explorer.decision import Decision
from hdet.replica.explorer.decision_line import decision_line, in_short
from tests.replica.explorer.test_exploration import explore


def decision(slope, t, excluded=()) -> Decision:
    return Decision(
        excluded=list(excluded),
        rollback=False,
        offsets=[],
        slopes=Slopes(slope, t, False),
        confidence=[0.0] * len(t),
        new_level=False,
        note="",
    )


@pytest.mark.parametrize(
    ("slope", "t", "words"),
    [
        (0.004, 2.0, ", larger is worse (t = 2, loss slope 0.004 +- 0.002)"),
        (-0.0046, -2.3, ", larger is better (t = -2.3, loss slope -0.0046 +- 0.002)"),
        (0.001, 0.5, ", no clear slope (t = 0.5, loss slope 0.001 +- 0.002)"),
        (0.0, 0.0, ""),
    ],
)
def test_a_move_is_told_with_its_slope_and_the_slopes_error(slope, t, words):
    dimensions = explore(["one lr"]).dimensions
    line = decision_line(dimensions, decision([slope], [t]), [0.7], [0.65])
    assert line == f"lr factor 0.7 -> 0.65{words}"


def test_a_value_that_does_not_move_stays():
    dimensions = explore(["one lr"]).dimensions
    line = decision_line(dimensions, decision([0.0], [0.0]), [0.7], [0.7])
    assert line == "lr factor stays at 0.7"


def test_each_rate_is_told_and_the_surest_first_and_who_is_left_out_too():
    dimensions = explore(["lr", "temperature"]).dimensions
    made = decision([-0.1, 0.1, 0.2], [-2.0, 1.0, 4.0], [1, 3])
    line = decision_line(dimensions, made, [0.1, 0.2, 2.0], [0.2, 0.18, 1.9])
    assert line == (
        "temperature 2 -> 1.9, larger is worse (t = 4, loss slope 0.2 +- 0.05); "
        "lr/0 0.1 -> 0.2, larger is better (t = -2, loss slope -0.1 +- 0.05); "
        "lr/1 0.2 -> 0.18, larger is worse (t = 1, loss slope 0.1 +- 0.1); "
        "left out as diverged: 1, 3"
    )


def test_of_many_parts_the_first_few_are_told_and_how_many_more_there_are():
    assert in_short(["a", "b"]) == "a, b"
    assert in_short(list("abcdefgh"), "; ") == "a; b; c; d; e; f; 2 more"
    assert in_short([]) == ""
