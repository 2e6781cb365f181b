"""Loops with Accelerate that its tests read: all in one pair of ranks.

Importing Accelerate takes seconds, so the ranks import it once, do every run in turn, and
return what each has seen; a run that fails returns its error.
"""

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import (
    Accelerator,
    DataLoaderConfiguration,
    DistributedType,
    FullyShardedDataParallelPlugin,
)
from accelerate.checkpointing import save_accelerator_state
from accelerate.scheduler import AcceleratedScheduler
from accelerate.state import AcceleratorState
from accelerate.utils import ParallelismConfig
from safetensors.torch import load_file
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader

import hdet
from tests.integrations.loops import (
    DIFFERING,
    LR,
    SIZE,
    SYNC,
    data,
    explorer_of,
    flat,
    loss_of,
    net,
    plain,
    run_each,
)


def accelerator(**settings: Any) -> Accelerator:
    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(cpu=True, **settings)


class Run:
    """A user's loop; `way` is how Explorer is brought to Accelerate."""

    def __init__(
        self,
        batches: int,
        way: str = "prepared",
        config: dict[str, Any] | None = None,
        size: int = SIZE,
        **settings: Any,
    ) -> None:
        self.accelerator = accelerator(**(config or {}))
        self.raw = net()
        optimizer = torch.optim.AdamW(self.raw.parameters(), LR)
        loader = DataLoader(data(batches), batch_size=size)
        self.model, self.optimizer, self.loader = self.accelerator.prepare(
            self.raw, optimizer, loader
        )
        inner = optimizer if way == "raw" else self.optimizer
        self.explorer = explorer_of(inner, self.model, self.raw, **settings)
        if way == "prepared":
            self.scheduler = self.accelerator.prepare(self.explorer)
        else:
            self.scheduler = self.explorer
            self.accelerator.register_for_checkpointing(self.explorer)
        self.seen: dict[str, list] = {name: [] for name in ("losses", "told", "own", "rates")}
        self.batches: list[Any] = []

    def train(self, loader: Any = None, each: Callable[[int], None] | None = None) -> "Run":
        for number, batch in enumerate(loader or self.loader, start=1):
            self.batches.append(batch)
            with self.accelerator.accumulate(self.model):
                loss = loss_of(self.model, batch)
                self.accelerator.backward(loss)
                self.optimizer.step()
                self.scheduler.step(loss)
                self.optimizer.zero_grad()
            self.seen["losses"].append(float(loss.detach()))
            self.seen["told"].append(self.explorer.metrics().get("losses"))
            self.seen["own"].append(flat(self.raw))
            if each is not None:
                each(number)
        return self

    def result(self, **more: Any) -> dict[str, Any]:
        """Return what is left of the run, and what was seen. Collective."""
        self.explorer.converge()
        numbers = self.explorer.metrics()
        return {"weights": flat(self.raw), "metrics": numbers, **self.seen, **more}


# --- the runs


def search(_: Path) -> dict[str, Any]:
    """The whole search, with trials, beside that of a plain loop."""
    run = Run(140).train()
    same = run.scheduler is run.explorer
    return run.result(same=same, plain=plain(run.batches))


def accumulation(_: Path) -> dict[str, Any]:
    """Three micro-batches a step, and two in the last."""
    run = Run(3 * SYNC * 3 - 1, config={"gradient_accumulation_steps": 3}, **DIFFERING).train()
    return run.result(plain=plain(run.batches, 3, **DIFFERING))


def accumulated_search(_: Path) -> dict[str, Any]:
    """The whole search, of two micro-batches a step."""
    run = Run(300, config={"gradient_accumulation_steps": 2}).train()
    return run.result(plain=plain(run.batches, 2))


def one_cycle(_: Path) -> dict[str, Any]:
    """`OneCycleAutoLR` in Explorer's place, with micro-batches."""
    run = Run(8 * SYNC, config={"gradient_accumulation_steps": 2}, **DIFFERING)
    run.accelerator._schedulers.clear()
    run.explorer = run.scheduler = run.accelerator.prepare(
        hdet.OneCycleAutoLR(
            run.optimizer, LR, 4 * SYNC, model=run.model, ensemble_lr_spread_ratio=0.3,
            model_sync_interval=SYNC, enable_auto_lr=True, auto_lr_warmup_steps=SYNC,
        )
    )  # fmt: skip
    run.train()
    return run.result(steps=run.explorer.last_epoch)


def loaders(_: Path) -> dict[str, Any]:
    """Batches that are split, and such as rank 0 reads for all."""
    kinds = {"split": {"split_batches": True}, "dispatched": {"dispatch_batches": True}}
    found = {}
    for name, kind in kinds.items():
        config = {"dataloader_config": DataLoaderConfiguration(**kind)}
        run = Run(3 * SYNC, config=config, size=2 * SIZE if name == "split" else SIZE,
                  **DIFFERING).train()  # fmt: skip
        found[name] = run.result(plain=plain(run.batches, **DIFFERING))
    return found


def evaluation(_: Path) -> dict[str, Any]:
    """Evaluations amid intervals."""
    run = Run(30, **DIFFERING)
    held_out = run.accelerator.prepare(DataLoader(data(4, "val"), batch_size=SIZE))
    evaluated = []

    def evaluate(number: int) -> None:
        if number % 5:
            return
        with run.scheduler.converged(restore=True), torch.no_grad():
            losses = [loss_of(run.model, batch) for batch in held_out]
            together: Any = run.accelerator.gather(torch.stack(losses))
            evaluated.append((flat(run.raw), float(together.mean())))

    run.train(each=evaluate)
    return run.result(evaluated=evaluated, plain=plain(run.batches, **DIFFERING))


def _resumed(where: Path, way: str, **settings: Any) -> dict[str, Any]:
    """Train on 140 batches; again from a state that was saved after 24 of them."""
    config, inside = {"gradient_accumulation_steps": 2}, []
    whole = Run(140, way, config, **settings)

    def save(number: int) -> None:
        if number == 24:
            with whole.scheduler.converged():
                whole.accelerator.save_state(str(where))
                inside.append(flat(whole.raw))

    whole.train(each=save)
    again = Run(140, way, config, **settings)
    again.accelerator.load_state(str(where))
    again.train(again.accelerator.skip_first_batches(again.loader, 24))
    file = load_file(where / "model.safetensors")
    saved = torch.cat([file[name].flatten() for name, _ in whole.raw.named_parameters()])
    return again.result(whole=whole.result(), saved=saved.tolist(), inside=inside[0])


def resume(folder: Path) -> dict[str, Any]:
    """Resume amid an interval, and in the climb of a search."""
    return {
        "prepared": _resumed(folder / "prepared", "prepared", **DIFFERING),
        "raw": _resumed(folder / "raw", "raw", **DIFFERING),
        "search": _resumed(folder / "search", "prepared"),
    }


def _error(make: Callable[[], Any]) -> str:
    try:
        make()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def refused(folder: Path) -> dict[str, Any]:
    """What each set-up that cannot be right is told."""
    found = {}
    run = Run(2, **DIFFERING)
    cosine = run.accelerator.prepare(CosineAnnealingLR(run.optimizer, 400))
    found["schedule"] = _error(lambda: hdet.Explorer(run.optimizer, cosine))
    found["loader"] = _error(lambda: hdet.probe(run.raw, run.loader, loss_of))
    run = Run(10, **DIFFERING)
    run.scheduler = AcceleratedScheduler(run.explorer, run.optimizer)
    found["wrapped"] = _error(run.train)
    run = Run(3, **DIFFERING).train()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        run.accelerator.save_state(str(folder / "apart"))
    found["saved"] = [str(w.message) for w in told if "hdet" in str(w.filename)]
    return found


def _sharding(plugin: FullyShardedDataParallelPlugin) -> Accelerator:
    """Return an Accelerator that shards on the CPU, as Accelerate itself does on GPUs."""
    here = accelerator()
    state: Any = here.state
    state.fsdp_plugin, state.distributed_type = plugin, DistributedType.FSDP
    state.device = torch.device("cpu")
    return here


def hybrid(folder: str) -> dict[str, Any]:
    """FSDP2 on a mesh of two replicas with two shards each, on four ranks."""
    _as_torchrun_does()
    here = _sharding(FullyShardedDataParallelPlugin(fsdp_version=2))
    state: Any = here.state
    state.parallelism_config = ParallelismConfig(dp_replicate_size=2, dp_shard_size=2)
    state.device_mesh = state.parallelism_config.build_device_mesh("cpu")
    net_ = net()
    given: Any = torch.optim.AdamW(net_.parameters(), LR)
    model, optimizer = here.prepare(net_, given)
    explorer = here.prepare(explorer_of(optimizer, model, model, **DIFFERING))
    batches = data(3 * SYNC)
    for number in range(SYNC + 3):
        first = SIZE * (4 * number + dist.get_rank())
        here.backward(loss_of(model, batches[first : first + SIZE]))
        optimizer.step()
        explorer.step(1.0)
        optimizer.zero_grad()

    def whole() -> list[float]:
        parts: Any = model.parameters()
        return torch.cat([p.full_tensor().detach().flatten() for p in parts]).tolist()

    own, size = whole(), explorer.metrics()["replica_lr"]
    with explorer.converged():
        return {
            "own": own,
            "mean": whole(),
            "rates": size[0],
            # What `save_state` calls; it saves no sharded weights from the CPU.
            "saved": _error(
                lambda: save_accelerator_state(folder, [], [], here._schedulers, [], 0, 0)
            ),
        }


def _sharded(version: int, before: bool) -> None:
    """Let Accelerate shard a model, before Explorer is made or after."""
    plugin = FullyShardedDataParallelPlugin(fsdp_version=version)
    plugin.use_orig_params = None if version == 2 else True
    here = _sharding(plugin)
    net_ = net()
    given: Any = torch.optim.AdamW(net_.parameters(), LR)
    explorer = explorer_of(given, net_, net_) if before else None
    model, optimizer = here.prepare(net_, given)
    explorer = explorer or explorer_of(optimizer, model, model)
    here.backward(loss_of(model, data(1)[:SIZE]))
    optimizer.step()
    explorer.step(1.0)


def sharded(_: Path) -> dict[str, Any]:
    """Models that Accelerate shards over all ranks."""
    return {
        f"FSDP{version} {'before' if before else 'after'}": _error(
            lambda version=version, before=before: _sharded(version, before)
        )
        for version in (1, 2)
        for before in (True, False)
    }


RUNS = [
    search, accumulation, accumulated_search, one_cycle, loaders, evaluation, resume, refused,
    sharded,
]  # fmt: skip


def _as_torchrun_does() -> None:
    """Set the environment that tells Accelerate of this process's group."""
    rank, size = dist.get_rank(), dist.get_world_size()
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    os.environ.update({name: str(value) for name, value in ranks.items()})
    warnings.simplefilter("ignore")


def all_runs(folder: str, names: list[str] | None = None) -> dict[str, Any]:
    """Return what every run has seen on this rank; a text where it failed."""
    _as_torchrun_does()
    return run_each(RUNS, folder, names)
