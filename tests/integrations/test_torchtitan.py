"""`explore` in torchtitan's own Trainer on two and four ranks, by the values that are right."""

import importlib
import sys

import pytest
import torch

from tests.integrations.titan_ranks import SAVED, STEPS, SYNC, all_runs
from tests.rank_runner import run_ranks

pytestmark = [pytest.mark.ranks, pytest.mark.slow, pytest.mark.timeout(300)]

ON_TWO = [
    *("everything", "unwatched", "accumulation", "search", "resumed", "two_optimizers"),
    *("refused", "without"),
]
ON_FOUR = ["everything", "resumed", "resumed_async", "other_mesh"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("titan")


@pytest.fixture(scope="module")
def found(folder):
    saved = f"{folder}/two/resumed/checkpoint/step-{SAVED}"
    two = run_ranks(all_runs, 2, f"{folder}/two", ON_TWO, saved)
    return {2: two, 4: run_ranks(all_runs, 4, f"{folder}/four", ON_FOUR, saved)}


@pytest.fixture
def of(found):
    """Return what all ranks have seen in a run."""

    def read(name, ranks=2):
        seen = [rank[name] for rank in found[ranks]]
        for one in seen:
            assert not isinstance(one, str), one
        return seen

    return read


def same(seen, key):
    return all(equal(run[key], seen[0][key]) for run in seen)


def equal(mine, theirs):
    if isinstance(mine, list):
        return len(mine) == len(theirs) and all(map(equal, mine, theirs))
    return bool(torch.equal(mine, theirs)) if isinstance(mine, torch.Tensor) else mine == theirs


both_meshes = pytest.mark.parametrize("ranks", [2, 4], ids=["2x1", "2x2"])


# --- training


@both_meshes
def test_explorer_sees_each_replicas_own_loss_at_its_true_scale(of, ranks):
    seen = of("everything", ranks)
    first = 3 * SYNC
    own = [sum(run["losses"][first : first + SYNC]) / SYNC for run in seen]
    shards = ranks // 2
    expected = [sum(own[:shards]) / shards, sum(own[shards:]) / shards]
    assert seen[0]["metrics"][0]["losses"] == pytest.approx(expected, rel=1e-5)
    assert expected[0] != pytest.approx(expected[1], rel=1e-5)
    assert max(expected) < 5  # log(32) = 3.5, not a share of it


def test_under_accumulation_losses_have_their_scale_and_each_optimizer_step_is_one(of):
    seen = of("accumulation")
    assert seen[0]["metrics"][0]["step"] == 2 * SYNC
    own = [sum(run["losses"][SYNC:]) / SYNC for run in seen]
    assert seen[0]["metrics"][0]["losses"] == pytest.approx(own, rel=1e-5)


@both_meshes
def test_logs_tell_the_base_rate_and_replicas_have_others(of, ranks):
    seen = of("everything", ranks)
    for run in seen:
        assert run["logged"] == [base for base, _ in run["rates"]]
        assert any(own != base for base, own in run["rates"])
    assert same(seen, "logged")


@both_meshes
def test_all_replicas_are_one_after_training(of, ranks):
    seen = of("everything", ranks)
    shards = ranks // 2
    for shard in range(shards):
        assert torch.equal(seen[shard]["final"], seen[shards + shard]["final"])
        assert not torch.equal(seen[shard]["own"][-2], seen[shards + shard]["own"][-2])


def test_the_search_ends_with_the_climb_and_says_so(of):
    seen = of("search")
    lines = "\n".join(seen[0]["lines"])
    assert "the search will end with the climb: a replica is several processes" in lines
    assert "the search is over" in lines
    assert "trial" not in lines
    assert seen[0]["metrics"][0]["phase"] == "track"
    assert same(seen, "final")


def test_two_optimizers_are_explored_each_by_its_own(of):
    for run in of("two_optimizers"):
        names = [list(metrics["values"]) for metrics in run["straight"]["metrics"]]
        assert names == [["lr/0"], ["lr/0"]]
        assert torch.equal(run["straight"]["final"], run["again"]["final"])


# --- evaluation and checkpoints


@both_meshes
def test_validation_sees_equal_weights(of, ranks):
    seen = of("everything", ranks)
    assert len(seen[0]["validated"]) == 1 + STEPS // 5
    assert same(seen, "validated")


def test_training_does_not_notice_validation_nor_the_probe_the_token_count(of):
    for run, plain in zip(of("everything"), of("unwatched"), strict=True):
        assert equal(run["own"], plain["own"])
        assert torch.equal(run["final"], plain["final"])
        assert run["tokens"] == STEPS * 4 * 8


@pytest.mark.parametrize(
    ("name", "ranks"), [("everything", 2), ("everything", 4), ("resumed_async", 4)]
)
def test_a_checkpoint_has_the_weights_of_all_replicas_averaged(of, name, ranks):
    seen = of(name, ranks)
    saved = [run.get("straight", run)["saved"] for run in seen]
    assert len(saved[0]) == 2
    assert all(equal(one, saved[0]) for one in saved)
    assert all(torch.equal(run["file"], saved[0][0]) for run in seen)
    if name == "everything" and ranks == 2:
        own = torch.stack([run["own"][SAVED - 1] for run in seen])
        assert torch.allclose(saved[0][0].sort().values, own.mean(0).sort().values)


@pytest.mark.parametrize(
    ("name", "ranks"), [("resumed", 2), ("resumed", 4), ("resumed_async", 4)]
)
def test_a_run_that_is_resumed_goes_on_to_the_last_bit(of, name, ranks):
    for run in of(name, ranks):
        straight, again = run["straight"], run["again"]
        assert equal(again["own"], straight["own"][SAVED:])
        assert torch.equal(again["final"], straight["final"])
        assert again["metrics"][0]["values"] == straight["metrics"][0]["values"]
        assert again["metrics"][0]["probes"] == straight["metrics"][0]["probes"]


def test_a_checkpoint_loads_on_another_mesh(of):
    weights = of("resumed")[0]["straight"]["saved"][0]
    for run in of("other_mesh", 4):
        assert run["step"] == run["metrics"]["step"] == SAVED
        assert torch.equal(run["loaded"], weights)


def test_without_hdet_a_checkpoint_goes_on_at_torchtitans_own_rates(of):
    for run in of("without"):
        assert run["step"] == run["last_epoch"] == SAVED
        assert run["scheduled"] == pytest.approx(run["plain"])


# --- what is refused


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("no trainer", "must be a torchtitan Trainer: make it first"),
        ("no config", r"probe=list\)` must be the configuration of a dataloader"),
        ("no setting", "has no setting optimizer, window: there are config, explore"),
        ("twice", "must be torchtitan's own: call it once"),
        ("no replicas", "data_parallel_replicate_degree=1.* must be at least 2"),
        ("torchft", "fault_tolerance.enable=True.* must be off, .* restart from a checkpoint"),
        ("pipeline", r"pipeline_parallel_degree=2\)` must be 1"),
        ("context", r"context_parallel_degree=2\)` must be 1"),
    ],
)
def test_what_cannot_work_is_refused_in_words(of, case, words):
    for run in of("refused"):
        with pytest.raises(AssertionError, match=words):
            raise AssertionError(run[case])
        assert "[rank" in run[case]


def test_without_torchtitan_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchtitan.trainer", None)
    with pytest.raises(ImportError, match=r'pip install "hdet\[torchtitan\]"'):
        importlib.import_module("hdet.integrations.torchtitan")
