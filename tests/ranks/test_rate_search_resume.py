"""A run with a search goes on to the last bit from a checkpoint of any of its phases."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver

import hdet
from tests.helpers import loss_at
from tests.rank_runner import run_ranks
from tests.ranks.searched import Run, same

pytestmark = pytest.mark.ranks

END = 150
# So that the rise is less than its most whatever the noise of these batches.
# And so that some old updates are scored in runs so short.
CONFIG = hdet.SearchConfig(gain_power=0.5, evidence_steps=4, evidence_delay=3, hold_share=0.1)
PHASES = ("climb", "settle", "trial", "warmup", "track")


def _resumed(name, explore):
    """Save at every step of a run, and resume from some steps of each phase."""
    settings: dict[str, Any] = {"explore": explore, "norm": True, "config": CONFIG}
    run, saved = Run(name, **settings), []
    run.train(range(END), lambda t: saved.append(run.saved()))
    whole, found = run.end(), {}
    for phase in PHASES:
        first = run.phases.index(phase)
        for offset in (0, 1, 9):
            again = Run(name, **settings)
            again.load(saved[first + offset])
            again.train(range(first + offset, END))
            same_rates = again.rates == run.rates[first + offset :]
            found[phase, offset] = same_rates and same(whole, again.end())
    return found


@pytest.mark.filterwarnings("ignore:.*cannot tell their effects apart")
@pytest.mark.parametrize(
    ("name", "explore"), [("adamw", ["lr", "weight_decay"]), ("one group", ["lr"])]
)
def test_each_rank_goes_on_from_its_own_copy_to_the_last_bit(name, explore):
    for found in run_ranks(_resumed, 2, name, explore):
        assert found == dict.fromkeys(found, True)


def _from_one_copy(name):
    found = {}
    for phase, offset in (
        ("settle", 3),
        ("trial", 0),
        ("trial", 7),
        ("warmup", 20),
        ("track", 4),
    ):
        run, t = Run(name, norm=True), 0
        while run.explorer.metrics()["phase"] != phase:
            run.train([t])
            t += 1
        stop = t + offset
        run.train(range(t, stop))
        was = run.explorer.metrics()["phase"]
        with run.explorer.converged():
            mine = run.saved()
        box = [mine]
        dist.broadcast_object_list(box)
        run.train(range(stop, stop + 50))
        again = Run(name, norm=True)
        again.load(box[0])
        again.train(range(stop, stop + 50))
        found[phase, offset] = (was, mine == box[0], same(run.end(), again.end()))
    return found


@pytest.mark.parametrize("name", ["adamw", "one group"])
def test_one_copy_from_inside_converged_serves_all(name):
    for found in run_ranks(_from_one_copy, 2, name):
        for (phase, _), (was, same_copy, same_end) in found.items():
            assert was == phase
            assert same_copy
            assert same_end, phase


def _left_apart():
    run, t = Run("one group"), 0
    while run.explorer.metrics()["phase"] != "trial":
        run.train([t])
        t += 1
    run.train(range(t, t + 5))
    saved, other = run.saved(), Run("one group", probed=False, search=True)
    with pytest.raises(ValueError, match=r"replica's own weights.* there is no probe"):
        other.load(saved)
    hdet.Explorer(run.optimizer, model=run.ddp, search=False)
    run.optimizer.zero_grad()
    loss_at(run.ddp, t, dist.get_rank()).backward()
    return [(p.detach(), p.grad) for p in run.model.parameters()]


def test_a_run_that_stops_in_a_trial_is_one_again_in_its_next_stage_and_resumes_in_trials():
    first, second = run_ranks(_left_apart, 2)
    for mine, theirs in zip(first, second, strict=True):
        assert all(map(torch.equal, mine, theirs))


def _checkpointed(folder):
    """Save by torch.distributed.checkpoint while all is one, and load into a fresh run."""
    found = {}
    for phase in PHASES:
        run, stop = Run(norm=True), 0
        while run.explorer.metrics()["phase"] != phase:
            run.train([stop])
            stop += 1
        run.train(range(stop, stop + 5))
        place = f"{folder}/{phase}"
        with run.explorer.converged():
            state_dict_saver.save({"explorer": run.explorer}, checkpoint_id=place)
            expected = run.explorer.metrics()["values"], run.explorer.get_last_lr()
        again = Run(norm=True)
        state_dict_loader.load({"explorer": again.explorer}, checkpoint_id=place)
        with again.explorer.converged():
            loaded = again.explorer.metrics()["values"], again.explorer.get_last_lr()
        found[phase] = loaded == expected
    return found


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_a_state_of_any_phase_is_loaded_by_distributed_checkpoint(tmp_path):
    for found in run_ranks(_checkpointed, 2, str(tmp_path)):
        assert found == dict.fromkeys(PHASES, True)
