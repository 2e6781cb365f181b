"""Which process groups can hold replicas."""

import pytest
import torch
import torch.distributed as dist

import hdet
from tests.rank_runner import run_ranks


class Foreign(dist.ProcessGroup):
    """A group that torch.distributed has not made, as torchft's are."""

    def __init__(self) -> None:
        super().__init__(0, 2)  # pyright: ignore[reportCallIssue]


def refusal() -> str:
    optimizer = torch.optim.AdamW(torch.nn.Linear(2, 2).parameters())
    with pytest.raises(ValueError, match="process_group=Foreign") as caught:
        hdet.Explorer(optimizer, process_group=Foreign())
    return str(caught.value)


def test_a_group_that_torch_does_not_know_is_no_single_replica():
    said = refusal()
    assert said.startswith(
        "`Explorer(process_group=Foreign)` is not known to torch.distributed"
    )
    assert "restart from a checkpoint with another number of them" in said


@pytest.mark.ranks
def test_nor_does_it_hold_replicas_beside_a_group_that_torch_knows():
    for rank, said in enumerate(run_ranks(refusal, 2)):
        assert said.startswith(f"[rank {rank} of 2] `Explorer(process_group=Foreign)`")
