"""One run of one configuration, on every rank: an ordinary DDP loop with hdet in it.

All configurations of a seed see the same batches in the same order. The stream's first
part belongs to the checkpoint that warm starts begin from; every other run starts
behind it, so that no run sees a batch twice, or one that its checkpoint has seen.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hdet import OneCycleAutoLR, add_noise_, average_
from hdet.seeding import generator

from ..core.files import read_tensors, write_json, write_tensors
from ..tasks import Task
from .checkpoints import Checkpoints, interval
from .records import CHECKPOINT, Configuration, Result, RunFolder, Settings
from .run_log import RunLog

# OneCycleLR's own momentum cycle would be one more thing that moves.
_CYCLE_MOMENTUM = False
_WEIGHT_DECAY = 0.01

Progress = Callable[[int, float, float], None]


def run(
    folder: RunFolder,
    settings: Settings,
    task: Task,
    row: Configuration,
    seed: int,
    progress: Progress,
) -> Result:
    """Train one configuration with one seed and write its part of the folder.

    Collective. Rank 0 writes `metrics.jsonl` as it goes, and `result.json` at the end.
    If an earlier call was killed, this one goes on from its last checkpoint and gives
    the same numbers, to the last bit, as if it had not been. `progress` is called after each
    step with (step, loss, base rate). The result is the same on every rank.
    """
    rank = dist.get_rank()
    making_checkpoint = row.name == CHECKPOINT
    steps = settings.warm_steps if making_checkpoint else settings.steps
    first = 0 if making_checkpoint else settings.warm_steps
    path = folder.run(row.name, seed)
    path.mkdir(parents=True, exist_ok=True)

    model = task.model(generator(seed, "model"))
    if row.warm_start:
        file = folder.warm_start(seed)
        model.load_state_dict(read_tensors(file, folder.anew(CHECKPOINT, seed)))
    ddp = DistributedDataParallel(model)
    if row.noisy:
        noise = generator(seed, "noise", rank)
        add_noise_(model, settings.noise, generator=noise)
    optimizer = torch.optim.AdamW(
        task.groups(model), lr=row.lr, weight_decay=_WEIGHT_DECAY, fused=True
    )
    scheduler = OneCycleAutoLR(
        optimizer,
        row.lr,
        steps,
        cycle_momentum=_CYCLE_MOMENTUM,
        ensemble_lr_spread_ratio=row.spread,
        model_sync_interval=settings.sync_every,
        auto_lr_warmup_steps=min(settings.auto_lr_after, steps - 1),
        enable_auto_lr=row.auto_lr,
        loss_scale=settings.loss_scale,
        lr_of_lr=settings.lr_of_lr,
        momentum_of_lr=settings.momentum_of_lr,
        model=model,
        seed=seed,
    )
    log = RunLog(path)
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "log": log}
    checkpoints = Checkpoints(path, parts)
    save_every = interval(steps, settings.sync_every)
    done = checkpoints.step()
    if done:
        _pass_once(ddp, task)
        checkpoints.load(done)
    log.begin(done)
    try:
        for step in range(done + 1, steps + 1):
            batch = task.batch(seed, first + step - 1, rank, dist.get_world_size())
            began = time.perf_counter()
            metrics = scheduler.metrics()
            optimizer.zero_grad()
            loss = task.loss(ddp, batch)
            loss.backward()
            optimizer.step()
            scheduler.step(loss)
            sync_ms = _average_without_spread(row, step, settings, optimizer, model)
            synced = row.spread > 0 and step % settings.sync_every == 0
            log.step(step, loss, metrics, time.perf_counter() - began)
            if synced:
                sync_ms = scheduler.metrics()["sync_ms"]
            log.sync(step, sync_ms, scheduler.metrics() if synced else None)
            if step % settings.sync_every == 0 or step == steps:
                log.flush()
            if step % save_every == 0 and step < steps:
                checkpoints.save(step)
            progress(step, log.last_loss, sum(metrics["base_lr"]) / len(settings.groups))
        scheduler.converge()
        held_out = _held_out_loss(task, model)
    except RuntimeError as error:
        # hdet's own word that every replica is lost is a result; all else is a fault.
        if "replicas hold NaN or infinite" not in str(error):
            raise
        held_out = math.nan
    log.flush()
    result = log.result(held_out)
    if rank == 0:
        if making_checkpoint:
            write_tensors(folder.warm_start(seed), model.state_dict())
        write_json(path / "result.json", asdict(result))
        checkpoints.remove()
    dist.barrier()
    return result


def _pass_once(ddp: nn.Module, task: Task) -> None:
    """Let DDP have a first backward pass, after which it lays out its buckets anew.

    How a sum over ranks is rounded depends on them, so it must not be a resumed step's.
    """
    batch = task.batch(0, 0, dist.get_rank(), dist.get_world_size())
    task.loss(ddp, batch).backward()


def _average_without_spread(
    row: Configuration,
    step: int,
    settings: Settings,
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
) -> float:
    """Average where the scheduler, having no spread, would not; return milliseconds."""
    if not row.average or row.spread > 0 or step % settings.sync_every:
        return 0.0
    began = time.perf_counter()
    tensors = [p for group in optimizer.param_groups for p in group["params"]]
    average_(tensors, model=model)
    return 1000 * (time.perf_counter() - began)


@torch.no_grad()
def _held_out_loss(task: Task, model: nn.Module) -> float:
    """Return the held-out loss, the mean over replicas where their weights differ."""
    model.eval()
    losses = torch.stack([task.loss(model, batch) for batch in task.held_out()])
    model.train()
    mean = losses.double().mean()
    dist.all_reduce(mean)
    return float(mean) / dist.get_world_size()
