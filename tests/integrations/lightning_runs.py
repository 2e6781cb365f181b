"""Runs of Lightning's Trainer that its tests read: all in one pair of ranks.

Importing Lightning takes seconds, so the ranks import it once, do every run in turn, and
return what each has seen; a run that fails returns its error.
"""

import csv
import logging
import os
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import pytorch_lightning
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

import hdet
from hdet.integrations.lightning import HDETCallback
from tests.integrations.loops import LR, SYNC, data, flat, loss_of, net, probe_of, run_each

EPOCH = 20  # optimizer steps


def parts(package: Any = lightning) -> type:
    """Return the module class of one of Lightning's two packages."""

    class Module(package.LightningModule):
        """Trains, and notes what it sees."""

        def __init__(self, settings: dict[str, Any], wrapper: bool = True) -> None:
            super().__init__()
            self.net, self.settings, self.wrapper = net(), settings, wrapper
            self.entry: dict[str, Any] = {"interval": "step"}
            names = ("losses", "phases", "told", "evaluated", "own", "saved")
            self.seen: dict[str, list] = {name: [] for name in names}

        def training_step(self, batch, batch_idx):
            loss = loss_of(self, batch)
            self.seen["losses"].append(float(loss.detach()))
            self.seen["phases"].append(self.explorer.metrics().get("phase"))
            return loss

        def on_train_batch_end(self, *_):
            self.seen["own"].append(flat(self))
            self.seen["told"].append(self.explorer.metrics().get("losses"))

        def validation_step(self, batch, batch_idx):
            self.log("val_loss", loss_of(self, batch), sync_dist=True)
            self.seen["evaluated"].append((flat(self), self.explorer.metrics()["base_lr"]))

        test_step = validation_step

        def on_save_checkpoint(self, checkpoint):
            self.seen["saved"].append(repr(checkpoint))

        def configure_optimizers(self):
            optimizer = torch.optim.AdamW(self.parameters(), LR)
            model = self.trainer.model if self.wrapper else self
            settings = {"sync_every": SYNC, "probe": probe_of(self), "model": model}
            schedule = CosineAnnealingLR(optimizer, 400)
            self.explorer = hdet.Explorer(optimizer, schedule, **(settings | self.settings))
            entry = {"scheduler": self.explorer, **self.entry}
            return {"optimizer": optimizer, "lr_scheduler": entry}

    return Module


Module = parts()


def trainer(*callbacks: Any, package: Any = lightning, **settings: Any) -> Any:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    # Lightning's own sampler shuffles, whatever the loader says.
    quiet |= {"use_distributed_sampler": False}
    quiet |= {"enable_checkpointing": any(isinstance(c, ModelCheckpoint) for c in callbacks)}
    return package.Trainer(
        accelerator="cpu", devices=2, callbacks=[*callbacks],
        **({"strategy": "ddp", "max_epochs": 2, "num_sanity_val_steps": 0} | quiet | settings),
    )  # fmt: skip


def loader(found: TensorDataset) -> DataLoader:
    return DataLoader(found, batch_size=8, sampler=DistributedSampler(found, shuffle=False))


def train_loader(steps: int = EPOCH) -> DataLoader:
    return loader(data(steps))


def val_loader() -> DataLoader:
    return loader(data(2, "val"))


def result(module: Any, **more: Any) -> dict[str, Any]:
    """Return what is left of a run, and what was seen."""
    numbers = module.explorer.metrics()
    return {"weights": flat(module), "metrics": numbers, **module.seen, **more}


# --- what the tests compare with


def plain(settings: dict[str, Any], epochs: int = 2, steps: int = EPOCH) -> dict[str, Any]:
    """Train in a loop of torch's, with the same data in the same order."""
    model = net()
    ddp = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), LR)
    settings = {"sync_every": SYNC, "probe": probe_of(model), "model": ddp} | settings
    explorer = hdet.Explorer(optimizer, CosineAnnealingLR(optimizer, 400), **settings)
    for _ in range(epochs):
        for batch in train_loader(steps):
            optimizer.zero_grad()
            loss = loss_of(ddp, batch)
            loss.backward()
            optimizer.step()
            explorer.step(loss)
    explorer.converge()
    return {"weights": flat(model), "metrics": explorer.metrics()}


DIFFERING = {"search": False}  # the replicas differ from the first step on


# --- the runs


def search(_: Path) -> dict[str, Any]:
    """The whole search, with trials, beside that of a plain loop."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    log = logging.getLogger("hdet")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    module = Module({})
    trainer(HDETCallback(), max_epochs=7).fit(module, train_loader())
    log.removeHandler(handler)
    return result(module, lines=lines, plain=plain({}, epochs=7))


def evaluation(_: Path) -> dict[str, Any]:
    """Validation amid intervals and epochs, and a test, beside a loop without either."""
    module = Module(DIFFERING)
    run = trainer(HDETCallback(), val_check_interval=5, num_sanity_val_steps=2)
    run.fit(module, train_loader(), val_loader())
    home = {k: float(v) for k, v in run.callback_metrics.items() if k.startswith("hdet/")}
    home["found()"] = module.explorer.found()[0]
    during = list(module.seen["evaluated"])
    after = flat(module)
    run.test(module, val_loader(), verbose=False)
    run.validate(module, val_loader(), verbose=False)
    rates = [g["lr"] for g in module.explorer.optimizer.param_groups]
    last = module.seen["evaluated"][len(during) :]
    found = result(module, during=during, after=after, last=last, rates=rates, home=home)
    return found | {"plain": plain(DIFFERING)}


def checkpoints(folder: Path) -> dict[str, Any]:
    """Checkpoints of every kind, and what each rank put into them."""
    module = Module(DIFFERING)
    callbacks = [
        ModelCheckpoint(folder / "steps", "{step}", every_n_train_steps=5, save_top_k=-1),
        ModelCheckpoint(folder / "best", "{epoch}", monitor="val_loss", save_top_k=2,
                        save_last=True),
        ModelCheckpoint(folder / "weights", "{epoch}", save_weights_only=True),
    ]  # fmt: skip
    # Before the others, as a user may write it.
    run = trainer(*callbacks, HDETCallback())
    run.fit(module, train_loader(), val_loader())
    run.save_checkpoint(folder / "after.ckpt")
    return result(module, best=str(callbacks[1].best_model_path))


def _resumed(folder: Path, settings: dict[str, Any], length: int, at: int) -> dict[str, Any]:
    """Train for 140 steps; again from the checkpoint at the end of an epoch of `length`."""
    whole, module = Module(settings), Module(settings)
    limits = {"max_epochs": -1, "max_steps": 140}

    def fit(model: Any, name: str, **start: Any) -> None:
        where = folder / name
        keep = ModelCheckpoint(where, "{step}", every_n_train_steps=length, save_top_k=-1)
        trainer(HDETCallback(), keep, **limits).fit(model, train_loader(length), **start)

    fit(whole, "whole")
    fit(module, "again", ckpt_path=folder / "whole" / f"step={at}.ckpt")
    return result(module, whole=result(whole))


def resume(folder: Path) -> dict[str, Any]:
    """Resume amid an interval, between two syncs."""
    return _resumed(folder, DIFFERING, EPOCH, EPOCH)


def resume_climb(folder: Path) -> dict[str, Any]:
    """Resume while the rate climbs."""
    return _resumed(folder, {}, EPOCH, EPOCH)


def resume_trial(folder: Path) -> dict[str, Any]:
    """Resume where a checkpoint was written amid a trial."""
    return _resumed(folder, {}, 18, 54)


def accumulation(_: Path) -> dict[str, Any]:
    """Three micro-batches a step, and two in the last of an epoch."""
    module = Module(DIFFERING)
    run = trainer(HDETCallback(), accumulate_grad_batches=3)
    run.fit(module, train_loader(3 * SYNC - 1))
    return result(module, steps=run.global_step)


def scaled(_: Path) -> dict[str, Any]:
    """A GradScaler on the CPU, as `precision="16-mixed"` has one on a GPU."""
    module = Module(DIFFERING)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    plugin = MixedPrecision("16-mixed", device="cpu", scaler=scaler)
    trainer(HDETCallback(), plugins=[plugin], max_epochs=1).fit(module, train_loader(SYNC))
    return result(module)


def monitored(folder: Path) -> dict[str, Any]:
    """What LearningRateMonitor logs, and what the optimizer had."""
    module, bases, own = Module(DIFFERING), [], []

    class Watch(lightning.Callback):
        def on_train_batch_start(self, *_: Any, **__: Any):
            bases.append(module.explorer.metrics()["base_lr"][0])
            own.append(module.explorer.optimizer.param_groups[0]["lr"])

    monitor = LearningRateMonitor("step")
    logger = CSVLogger(folder / "csv")
    callbacks = (HDETCallback(), monitor, Watch())
    trainer(*callbacks, logger=logger, log_every_n_steps=1).fit(module, train_loader())
    logger.save()
    file = Path(logger.log_dir) / "metrics.csv"
    rows = list(csv.DictReader(file.open())) if dist.get_rank() == 0 else []
    return result(module, bases=bases, rates=own, logged=monitor.lrs["lr-AdamW"], rows=rows)


class Manual(Module):
    """Takes its steps itself, each of two micro-batches."""

    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        loss = loss_of(self, batch)
        self.manual_backward(loss / 2)
        self.seen["losses"].append(float(loss.detach()))
        explorer: Any = self.lr_schedulers()
        explorer.observe(loss)
        if batch_idx % 2:
            optimizer: Any = self.optimizers()
            optimizer.step()
            optimizer.zero_grad()
            explorer.step()

    def on_train_batch_end(self, *_):
        self.seen["told"].append(self.explorer.metrics().get("losses"))


def manual(_: Path) -> dict[str, Any]:
    """Manual optimization, with the climb and with validation."""
    module = Manual({}, wrapper=False)
    trainer(HDETCallback(), max_epochs=4).fit(module, train_loader(2 * SYNC), val_loader())
    return result(module)


def failing(folder: Path) -> dict[str, Any]:
    """All ranks fail amid an interval; what is saved then."""
    module, then, raised = Module(DIFFERING), [], ""

    class Fail(lightning.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if batch_idx == 9:
                trainer.save_checkpoint(folder / "hpc_ckpt_1.ckpt")
                then.append(flat(module))
                raise ConnectionError("lost")

    keep = ModelCheckpoint(folder, "failed", save_on_exception=True)
    run = trainer(HDETCallback(), Fail(), keep)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            run.fit(module, train_loader())
        except ConnectionError as error:
            raised = str(error)
    said = [str(w.message) for w in told if "HDETCallback" in str(w.message)]
    found = result(module, raised=raised, said=said, then=then[0])
    run.test(module, val_loader(), verbose=False)
    return found


class Unwrapped(DDPStrategy):
    """Stands for the strategies without DistributedDataParallel."""

    def configure_ddp(self):
        pass


class Parallel(Module):
    """A model that is sharded as ModelParallelStrategy wants it, or only split by tensors."""

    def __init__(self, sharded: bool) -> None:
        super().__init__(DIFFERING)
        self.sharded = sharded

    def configure_model(self):
        mesh: Any = self.device_mesh
        if self.sharded:
            fully_shard(self.net, mesh=mesh["data_parallel"])
        else:
            plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}
            parallelize_module(self.net, mesh["tensor_parallel"], plan)


def _error(module: Any, *callbacks: Any, **settings: Any) -> str:
    try:
        trainer(*callbacks, max_epochs=1, **settings).fit(module, train_loader(1))
    except ValueError as error:
        return str(error)
    return ""


def refused(_: Path) -> dict[str, Any]:
    """What each set-up that cannot be right is told."""

    class Other(Module):
        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), LR)

    epochs = Module(DIFFERING)
    epochs.entry = {"interval": "epoch"}
    seldom = Module(DIFFERING)
    seldom.entry["frequency"] = 3
    found = {
        "no scheduler": _error(Other({}), HDETCallback()),
        "epochs": _error(epochs, HDETCallback()),
        "seldom": _error(seldom, HDETCallback()),
        "manual": _error(Manual({}), HDETCallback()),
        "strategy": _error(Module(DIFFERING), HDETCallback(), strategy=Unwrapped()),
        "sharded": _error(Parallel(True), HDETCallback(), strategy=ModelParallelStrategy(2, 1)),
        "split": _error(Parallel(False), HDETCallback(), strategy=ModelParallelStrategy(2, 1)),
    }
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        trainer(max_epochs=1).fit(Module(DIFFERING), train_loader(2))
    said = [str(w.message) for w in told if "HDETCallback" in str(w.message)]
    return found | {"no callback": said}


def twice(_: Path) -> dict[str, Any]:
    """A second `fit` with the same Trainer and callback, and an explored attribute."""

    class Scaled(Module):
        def configure_optimizers(self):
            self.net[0].factor = 1.0 if not self.seen["own"] else self.net[0].factor
            factor = hdet.attribute(self.net[0], "factor", bounds=(0.1, 10.0))
            self.settings = DIFFERING | {"explore": [hdet.lr(), factor]}
            return super().configure_optimizers()

    module = Scaled({})
    run = trainer(HDETCallback(), max_epochs=1)
    run.fit(module, train_loader())
    factors = [module.net[0].factor]
    run.fit_loop.max_epochs = 2
    run.fit(module, train_loader(), val_loader())
    return result(module, factors=[*factors, module.net[0].factor])


def older_package(_: Path) -> dict[str, Any]:
    """The same callback in `pytorch_lightning`."""
    module = parts(pytorch_lightning)(DIFFERING)
    run = trainer(HDETCallback(), package=pytorch_lightning)
    run.fit(module, train_loader(), val_loader())
    return result(module, plain=plain(DIFFERING))


def one_cycle(_: Path) -> dict[str, Any]:
    """`OneCycleAutoLR` in Explorer's place."""

    class OneCycle(Module):
        def configure_optimizers(self):
            optimizer = torch.optim.AdamW(self.parameters(), LR)
            self.explorer: Any = hdet.OneCycleAutoLR(
                optimizer, LR, 2 * EPOCH, model=self,
                ensemble_lr_spread_ratio=0.3, model_sync_interval=SYNC, enable_auto_lr=True,
                auto_lr_warmup_steps=SYNC,
            )  # fmt: skip
            entry = {"scheduler": self.explorer, "interval": "step"}
            return {"optimizer": optimizer, "lr_scheduler": entry}

    module = OneCycle({})
    trainer(HDETCallback()).fit(module, train_loader(), val_loader())
    return result(module)


RUNS = [
    search, evaluation, checkpoints, resume, resume_climb, resume_trial, accumulation, scaled,
    monitored, manual, failing, refused, twice, older_package, one_cycle,
]  # fmt: skip


def all_runs(folder: str, names: list[str] | None = None) -> dict[str, Any]:
    """Return what every run has seen on this rank; a text where it failed."""
    # So Lightning knows that its processes have been started, and which this is.
    os.environ["LOCAL_RANK"] = str(dist.get_rank())
    for name in ("lightning.pytorch", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    return run_each(RUNS, folder, names)
