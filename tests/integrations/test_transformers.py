"""`HDETCallback` in a real Trainer, on two gloo processes.

Processes that load transformers start slowly, so each bundle of runs shares its processes.
"""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from transformers import TrainerCallback

from tests.rank_runner import run_ranks

from .trainers import as_torchrun_does, make_trainer, saved, spread, tuned, weights

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(300)]

# Long enough for the search to end, and evaluated in each of its phases.
STEPS, EVERY = 200, 40
SEARCHED: dict[str, Any] = {
    "max_steps": STEPS,
    "eval_strategy": "steps",
    "eval_steps": EVERY,
    "save_strategy": "steps",
    "save_steps": EVERY,
    "logging_strategy": "steps",
    "logging_steps": 1,
}


class Watch(TrainerCallback):
    """Notes what is so at evaluations and checkpoints, and may kill the process."""

    def __init__(self, die_at: int = 0) -> None:
        self.die_at = die_at
        self.spreads: list[float] = []
        self.equal: list[bool] = []
        self.before: list[float] = []
        self.phases: list[str] = []
        self.logged: list[tuple[int, float]] = []
        self.explorer: Any = None

    def on_step_begin(self, args, state, control, model=None, **_):
        if state.global_step == self.die_at > 0:
            os._exit(9)
        if state.global_step % EVERY == EVERY - 1:
            self.before.append(spread(model))

    def on_evaluate(self, *_: Any, **objects: Any):
        self.spreads.append(spread(objects["model"]))
        self.phases.append(objects["lr_scheduler"].metrics()["phase"])

    def on_log(self, args, state, control, logs=None, **_):
        if logs and "hdet/lr/0/base" in logs:
            self.logged.append((state.global_step, logs["hdet/lr/0/base"]))

    def on_save(self, args, state, control, model=None, **_):
        dist.barrier()
        there = saved(f"{args.output_dir}/checkpoint-{state.global_step}", model)
        self.equal.append(torch.equal(there, weights(model)))


def searched(folder: str, die_at: int = 0, resume: int = 0) -> dict[str, Any]:
    as_torchrun_does()
    trainer = make_trainer(folder, **SEARCHED)
    callback, watch = tuned(trainer, sync_every=4), Watch(die_at)
    trainer.add_callback(watch)
    trainer.train(resume_from_checkpoint=f"{folder}/checkpoint-{resume}" if resume else None)
    history = [row for row in trainer.state.log_history if "learning_rate" in row]
    assert callback.explorer is not None
    return {
        "weights": weights(trainer.model),
        "last": saved(f"{folder}/checkpoint-{STEPS}", trainer.model),
        "rates": [row["learning_rate"] for row in history],
        "losses": [row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row],
        "found": callback.explorer.found(),
        "watch": vars(watch),
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, list[dict[str, Any]]]:
    """A run that is killed after its trial, what is resumed of it, and one without a stop."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.raises(AssertionError, match="exit codes"):
        run_ranks(searched, 2, str(folder / "killed"), 3 * EVERY + 3)
    return folder, run_ranks(whole_and_resumed, 2, str(folder))


def whole_and_resumed(folder: str) -> dict[str, Any]:
    resumed = searched(f"{folder}/killed", resume=3 * EVERY)
    return {"resumed": resumed, "whole": searched(f"{folder}/whole")}


def test_evaluations_and_checkpoints_have_the_weights_of_all_replicas(run):
    for rank in run[1]:
        watch = rank["whole"]["watch"]
        assert watch["spreads"] == [0.0] * 5
        assert watch["equal"] == [True] * 5
        # They do train apart, and the last evaluations are not of the search.
        assert max(watch["before"]) > 0
        assert watch["phases"][-1] == "track"


def test_the_search_has_its_trials(run):
    first, second = (rank["whole"] for rank in run[1])
    assert first["found"] == second["found"]
    assert first["found"][0] > 3e-3  # the rate given was too small


def test_the_model_at_the_end_is_the_last_checkpoint_on_every_rank(run):
    for rank in run[1]:
        assert torch.equal(rank["whole"]["weights"], run[1][0]["whole"]["weights"])
        assert torch.equal(rank["whole"]["weights"], rank["whole"]["last"])


def test_a_killed_run_goes_on_to_the_last_bit(run):
    for rank in run[1]:
        assert torch.equal(rank["resumed"]["weights"], rank["whole"]["weights"])
        assert rank["resumed"]["rates"] == rank["whole"]["rates"]
        assert rank["resumed"]["losses"] == rank["whole"]["losses"]


def test_what_the_trainer_reports_to_gets_every_syncs_numbers(run):
    first, second = (rank["whole"] for rank in run[1])
    assert second["watch"]["logged"] == []
    steps = [step for step, _ in first["watch"]["logged"]]
    assert steps[:20] == [*range(1, 21)]  # each step of the search
    assert steps[-1] - steps[-2] == 4
    # What is told after a step is the rate of the next.
    for step, rate in first["watch"]["logged"]:
        if step < STEPS:
            assert rate == first["rates"][step]


def test_logs_tell_the_base_rate(run):
    first, second = (rank["whole"]["rates"] for rank in run[1])
    assert len(first) == STEPS
    assert first == second
