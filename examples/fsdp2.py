"""Train a sharded model (FSDP2) with a learning rate that is 30 times too high.

    OMP_NUM_THREADS=1 torchrun --standalone --nproc-per-node 4 examples/fsdp2.py

The processes are a mesh: replicas along its first axis, the shards of each along its second.
Two replicas are the least; four or more find more. Sharded replicas cannot train apart, so the
search for the rate ends with its climb. What is hdet's are the lines marked so.
"""

import argparse

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.optim.lr_scheduler import CosineAnnealingLR

import hdet


def data(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return inputs and the noisy targets of a fixed function."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 8, generator=draw)
    y = torch.sin(2 * x[:, :4]).sum(1, keepdim=True) + x[:, 4:].square().mean(1, keepdim=True)
    return x, y + 0.3 * torch.randn(count, 1, generator=draw)


def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return the mean squared error."""
    x, y = batch
    return (model(x) - y).square().mean()


def main(steps: int, shards: int, folder: str) -> None:
    """Train, save the mean of all replicas, and print what was found."""
    dist.init_process_group("gloo")
    size, rank = dist.get_world_size(), dist.get_rank()
    shape = (size // shards, shards)
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=("replicas", "shards"))
    torch.set_rng_state(torch.Generator().manual_seed(0).get_state())
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
    model.append(nn.Linear(64, 1))
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-1)
    scheduler = CosineAnnealingLR(optimizer, steps)
    held_out = [data(512, seed) for seed in range(1, 9)]
    probe = hdet.probe(model, held_out, loss_of)  # hdet
    scheduler = hdet.Explorer(  # hdet
        optimizer, scheduler, probe=probe, model=model, sync_every=5
    )

    for step in range(steps):
        loss = loss_of(model, data(16, 1000 + step * size + rank))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step(loss)  # hdet: the loss

    with scheduler.converged(), torch.no_grad():  # hdet
        if folder:
            state = {"model": model.state_dict(), "scheduler": scheduler.state_dict()}
            dcp.save(state, checkpoint_id=folder)
        score = float(loss_of(model, data(4096, seed=3)))
    if rank == 0:
        print(f"learning rate found {scheduler.found()[0]:.1e}, held-out loss {score:.3f}")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--folder", default="", help="where the mean of all replicas is saved")
    given = parser.parse_args()
    main(given.steps, given.shards, given.folder)
