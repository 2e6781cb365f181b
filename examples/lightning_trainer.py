"""Train in Lightning with a learning rate that is 30 times too high.

    OMP_NUM_THREADS=1 python examples/lightning_trainer.py

Lightning starts the second process itself. What is hdet's are the lines marked so. The rate
that was found is printed at the end.
"""

import argparse
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, TensorDataset

import hdet
from hdet.integrations.lightning import HDETCallback


def data(count: int, seed: int) -> TensorDataset:
    """Return inputs and the noisy targets of a fixed function."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 8, generator=draw)
    y = torch.sin(2 * x[:, :4]).sum(1, keepdim=True) + x[:, 4:].square().mean(1, keepdim=True)
    return TensorDataset(x, y + 0.3 * torch.randn(count, 1, generator=draw))


class Regression(pl.LightningModule):
    """A small network."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.net = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 1))

    def loss(self, batch: list[Tensor]) -> Tensor:
        x, y = batch
        return (self.net(x) - y).square().mean()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.loss(batch)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch), sync_dist=True)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=3e-1)
        scheduler = CosineAnnealingLR(optimizer, self.steps)
        held_out = DataLoader(data(6400, seed=1), batch_size=64)
        probe = hdet.probe(self, held_out, lambda _, batch: self.loss(batch))  # hdet
        self.explorer = hdet.Explorer(  # hdet
            optimizer, scheduler, probe=probe, model=self.trainer.model, sync_every=5
        )
        entry = {"scheduler": self.explorer, "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": entry}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--devices", type=int, default=2)
    given = parser.parse_args()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=given.devices,
        strategy="ddp",
        max_steps=given.steps,
        max_epochs=-1,
        callbacks=[HDETCallback()],  # hdet
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    model = Regression(given.steps)
    held_out = DataLoader(data(1024, seed=3), batch_size=64)
    trainer.fit(model, DataLoader(data(3200, seed=2), batch_size=16), held_out)
    (scores,) = trainer.validate(model, held_out, verbose=False)
    if trainer.is_global_zero:
        rate = model.explorer.found()[0]
        print(f"learning rate found {rate:.1e}, held-out loss {scores['val_loss']:.3f}")
