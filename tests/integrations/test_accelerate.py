"""Explorer in loops with Accelerate on two ranks, by the values that are right."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.integrations import accelerate_runs as runs
from tests.integrations.loops import SYNC, assert_same, reader
from tests.rank_runner import run_ranks

pytestmark = [pytest.mark.ranks, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return run_ranks(runs.all_runs, 2, str(tmp_path_factory.mktemp("accelerate")))


@pytest.fixture
def of(found):
    """Return what both ranks have seen in a run."""
    return reader(found)


# --- training


@pytest.mark.parametrize("name", ["search", "accumulated_search", "accumulation"])
def test_a_loop_trains_as_a_plain_one_does_to_the_last_bit(of, name):
    for run in of(name):
        assert_same(run, run["plain"])
        assert run["metrics"]["phase"] == "track"
    # The replicas do differ between two syncs.
    assert of("accumulation")[0]["own"][5] != of("accumulation")[1]["own"][5]


def test_prepare_leaves_the_scheduler_alone(of):
    assert all(run["same"] for run in of("search"))


def test_under_accumulation_steps_are_the_optimizers_and_losses_those_of_micro_batches(of):
    both = of("accumulation")
    assert both[0]["metrics"]["step"] == 3 * SYNC
    # The second interval is that of 21 micro-batches.
    expected = [sum(run["losses"][3 * SYNC : 6 * SYNC]) / (3 * SYNC) for run in both]
    assert both[0]["told"][6 * SYNC - 1] == pytest.approx(expected, rel=1e-6)
    assert expected[0] != expected[1]


def test_the_papers_own_scheduler_counts_optimizer_steps_too(of):
    both = of("one_cycle")
    assert both[0]["steps"] == 4 * SYNC
    expected = [sum(run["losses"][2 * SYNC : 4 * SYNC]) / (2 * SYNC) for run in both]
    assert both[0]["told"][4 * SYNC - 1] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", ["split", "dispatched"])
def test_whoever_reads_the_batches_one_step_is_one_step(of, kind):
    for run in of("loaders"):
        assert_same(run[kind], run[kind]["plain"])
        assert run[kind]["metrics"]["step"] == 3 * SYNC


# --- evaluation and checkpoints


def test_an_evaluation_sees_equal_weights_and_training_does_not_notice(of):
    both = of("evaluation")
    assert len(both[0]["evaluated"]) == 6
    assert both[0]["evaluated"] == both[1]["evaluated"]
    assert both[0]["own"][9] != both[1]["own"][9]
    assert both[0]["evaluated"][1][0] not in [run["own"][9] for run in both]
    for run in both:
        assert_same(run, run["plain"])


@pytest.mark.parametrize("way", ["prepared", "raw", "search"])
def test_a_run_that_is_resumed_from_save_state_is_the_same_to_the_last_bit(of, way):
    both = [run[way] for run in of("resume")]
    # Saved after 12 optimizer steps: amid an interval, or in the climb.
    assert both[0]["saved"] == both[0]["inside"] == both[1]["inside"]
    if way != "search":
        assert both[0]["whole"]["own"][22] != both[1]["whole"]["own"][22]
    for run in both:
        assert_same(run, run["whole"])
        assert run["losses"] == run["whole"]["losses"][24:]


# --- what cannot be right


def test_a_state_that_is_saved_of_one_replica_is_warned_of(of):
    for run in of("refused"):
        (said,) = run["saved"]
        assert "outside `Explorer.converged()`: it saves the weights of rank 0's" in said
        assert "with scheduler.converged(): accelerator.save_state(...)" in said


def test_a_prepared_schedule_is_refused_since_its_length_is_another(of):
    for run in of("refused"):
        assert "CosineAnnealingLR that Accelerate has prepared, and steps 2" in run["schedule"]
        assert "Take it out of `prepare()`" in run["schedule"]


def test_a_prepared_loader_is_refused_for_the_probe(of):
    for run in of("refused"):
        assert "`probe(loader='DataLoaderShard')` must be the loader itself" in run["loader"]


def test_a_wrapper_that_steps_once_per_process_is_refused(of):
    for run in of("refused"):
        assert "AcceleratedScheduler calls it once per process" in run["wrapped"]


def test_models_that_accelerate_shards_over_all_ranks_are_refused_whenever_it_does(of):
    for run in of("sharded"):
        for when in ("before", "after"):
            assert "(FSDP1). Each rank updates its own shard" in run[f"FSDP1 {when}"]
        assert "was made before the optimizer got other parameters" in run["FSDP2 before"]
        assert "a value per rank would be a value per shard" in run["FSDP2 after"]


def test_fsdp2_with_a_replicate_axis_trains_and_its_save_state_is_refused(tmp_path):
    ranks = run_ranks(runs.hybrid, 4, str(tmp_path))
    assert ranks[0]["own"] == ranks[1]["own"]
    assert ranks[0]["own"] != ranks[2]["own"]
    assert len(set(ranks[0]["rates"])) == 2
    for one in ranks:
        assert one["mean"] == ranks[0]["mean"]
        assert "`accelerator.save_state` saves the scheduler's state of rank 0" in one["saved"]
        assert "torch.distributed.checkpoint" in one["saved"]


# --- the example


@pytest.mark.slow
def test_the_example_finds_a_rate():
    root = Path(__file__).parents[2]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*launch, "--nproc-per-node", "2", "examples/accelerate_loop.py", "--steps", "250"],
        cwd=root, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    # Not the exit code: gloo may abort a process that has done all, with or without us.
    assert "learning rate found" in done.stdout, done.stderr[-2000:]
    rate = float(done.stdout.split("learning rate found ")[1].split(",")[0])
    assert 1e-3 < rate < 1e-1
