"""What users might give to `hdet doctor`: functions that make their Explorer."""

import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR

import hdet

WIDTH = 500


def make(wrapped=True, schedule=lambda o: CosineAnnealingLR(o, 10_000), **arguments):
    model = nn.Linear(WIDTH, WIDTH, bias=False)
    ddp = DistributedDataParallel(model) if wrapped else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    arguments = {"probe": lambda: 0.0, "sync_every": 100, **arguments}
    return hdet.Explorer(optimizer, schedule(optimizer), model=ddp, **arguments)


def unwrapped():
    return make(wrapped=False)


def without_a_probe():
    return make(probe=None)


def short():
    return make(schedule=lambda o: CosineAnnealingLR(o, 500))


def endless():
    return make(schedule=lambda o: LambdaLR(o, lambda step: 1.0))


def explores_nothing():
    return make(explore=[])


def sharded(shape=(2, 2), names=("replicate", "shard")):
    # Imported here: it keeps hold of process groups, which then outlive their end.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = nn.Linear(WIDTH, WIDTH, bias=False)
    fully_shard(model, mesh=init_device_mesh("cpu", shape, mesh_dim_names=names))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = CosineAnnealingLR(optimizer, 10_000)
    return hdet.Explorer(optimizer, schedule, probe=lambda: 0.0, model=model)


def sharded_over_all():
    return sharded((4,), ("shard",))


def lbfgs():
    return hdet.Explorer(torch.optim.LBFGS(nn.Linear(2, 2).parameters()))


def optimizer_alone():
    return torch.optim.SGD(nn.Linear(2, 2).parameters(), 0.1)


def parses_arguments():
    sys.exit(2)


def misspelt():
    return nn.Liner(2, 2)  # pyright: ignore[reportAttributeAccessIssue]


def fails_on_rank_1():
    if dist.get_rank() == 1:
        raise FileNotFoundError("train.bin")
    return make()


def other_seeds():
    return make(seed=dist.get_rank())
