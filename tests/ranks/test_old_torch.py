"""What torch 2.6, the oldest that is promised, does not have yet: taken away here."""

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import hdet
from hdet.replica.ensemble.roll_call import _store
from tests.helpers import loss_at, small_model
from tests.rank_runner import run_ranks

pytestmark = pytest.mark.ranks


def _train_on_old_torch():
    """In a process of its own: nothing is put back."""
    ranks_of = dist.get_process_group_ranks

    def without_none(group):
        if group is None:
            raise KeyError(None)
        return ranks_of(group)

    dist.get_process_group_ranks = without_none
    del dist.ProcessGroup.get_group_store
    model = small_model()
    ddp = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    explorer = hdet.Explorer(
        optimizer, probe=lambda: loss_at(model, 0, 0), model=ddp, sync_every=2
    )
    for step in range(6):
        optimizer.zero_grad()
        loss = loss_at(ddp, step, dist.get_rank())
        loss.backward()
        optimizer.step()
        explorer.step(loss)
    store = _store()
    assert store is not None
    signed_in = store.check([f"hdet/0.1/0/{rank}" for rank in range(2)])
    return explorer._why_no_trials(), signed_in


def test_trials_and_the_roll_call_take_place():
    assert run_ranks(_train_on_old_torch, 2) == [(None, True)] * 2
