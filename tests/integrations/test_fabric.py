"""Explorer in loops with Lightning Fabric on two ranks, by the values that are right."""

import pytest

from tests.integrations import fabric_runs as runs
from tests.integrations.loops import SYNC, assert_same, reader
from tests.rank_runner import run_ranks

pytestmark = [pytest.mark.ranks, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return run_ranks(runs.all_runs, 2, str(tmp_path_factory.mktemp("fabric")))


@pytest.fixture
def of(found):
    """Return what both ranks have seen in a run."""
    return reader(found)


def test_a_loop_trains_as_a_plain_one_does_to_the_last_bit(of):
    for run in of("search"):
        assert_same(run, run["plain"])
        assert run["metrics"]["phase"] == "track"


def test_under_accumulation_it_does_too_and_losses_are_those_of_micro_batches(of):
    both = of("accumulation")
    for run in both:
        assert_same(run["search"], run["search"]["plain"])
        assert_same(run["differing"], run["differing"]["plain"])
    both = [run["differing"] for run in both]
    assert both[0]["own"][5] != both[1]["own"][5]
    expected = [sum(run["losses"][2 * SYNC : 4 * SYNC]) / (2 * SYNC) for run in both]
    assert both[0]["told"][4 * SYNC - 1] == pytest.approx(expected, rel=1e-6)


def test_an_evaluation_sees_equal_weights_and_training_does_not_notice(of):
    both = of("evaluation")
    assert len(both[0]["evaluated"]) == 6
    assert both[0]["evaluated"] == both[1]["evaluated"]
    assert both[0]["own"][9] != both[1]["own"][9]
    for run in both:
        assert_same(run, run["plain"])


def test_a_run_that_is_resumed_from_one_file_is_the_same_to_the_last_bit(of):
    both = of("resume")
    assert both[0]["saved"] == both[0]["inside"] == both[1]["inside"]
    assert both[0]["whole"]["own"][10] != both[1]["whole"]["own"][10]
    for run in both:
        assert_same(run, run["whole"])
        assert run["losses"] == run["whole"]["losses"][12:]


def test_a_file_that_is_saved_of_one_replica_is_warned_of(of):
    for run in of("refused"):
        (said,) = run["saved"]
        assert "`fabric.save` was called outside `Explorer.converged()`" in said
        assert "with scheduler.converged(): fabric.save(...)" in said
