"""What each rank of the learning rate demo does: all runs, turn by turn.

The runs advance together, an interval each in turn, so that all can be watched at once. Only
the ranks import this module, so that their parent need not wait for torch.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

import hdet

from ..seeding import generator
from .learning_rate import STDLIB, End, Point, Settings
from .text import HELD_OUT, ByteTransformer, loss_of, read_text

# The probe's batch is several times a rank's, and of text that no rank trains on.
PROBE_BATCH = 64


def train(
    rank: int,
    size: int,
    send: Callable[[Point | End], None],
    settings: Settings,
    jobs: Sequence[tuple[float, bool]],
) -> None:
    """Train from each job's rate, by Explorer or not; rank 0 sends how it goes and ends."""
    trainer = _Trainer(rank, size, settings)
    runs = [trainer.run(number, *job) for number, job in enumerate(jobs)]
    # Every rank takes the same turns, and so makes the same collective calls.
    for turn in zip(*runs, strict=True):
        for said in turn:
            if rank == 0:
                send(said)


class _Trainer:
    def __init__(self, rank: int, size: int, settings: Settings) -> None:
        self.size, self.settings = size, settings
        text, held_out = read_text(STDLIB)
        order = torch.randperm(len(text), generator=generator(settings.seed, "demo", "order"))
        probed = PROBE_BATCH * (settings.steps // settings.sync_every + 1)
        self.probe = text[order[:probed]].split(PROBE_BATCH)
        self.batches = text[order[probed:][rank::size]].split(settings.batch)
        spread = torch.linspace(0, len(held_out) - 1, HELD_OUT).long()
        self.held_out = held_out[spread[rank::size]].split(64)

    def run(self, number: int, lr: float, explores: bool) -> Iterator[Point | End]:
        settings, every = self.settings, self.settings.sync_every
        # These processes are the demo's own; all runs begin at the same weights.
        torch.set_rng_state(generator(settings.seed, "demo", "weights").get_state())
        model = ByteTransformer()
        ddp = DistributedDataParallel(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr)
        if settings.schedule == "cosine":
            scheduler = CosineAnnealingLR(optimizer, settings.steps)
        else:
            scheduler = OneCycleLR(optimizer, lr, settings.steps + 1, cycle_momentum=False)
        explorer = None
        if explores:
            explorer = hdet.Explorer(
                optimizer,
                scheduler,
                probe=hdet.probe(model, self.probe, loss_of),
                model=model,
                sync_every=every,
                seed=settings.seed,
            )
        losses, factor = torch.zeros(()), 1.0
        for step in range(1, settings.steps + 1):
            loss = loss_of(ddp, self.batches[step - 1])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses += loss.detach()
            if step % every == 0:
                rate = planned = float(scheduler.get_last_lr()[0])
                if explorer is not None:
                    rate = explorer.metrics()["base_lr"][0]
                factor = rate / planned
                dist.all_reduce(losses)
                yield Point(number, step, rate, float(losses) / (self.size * every))
                losses.zero_()
            if explorer is None:
                scheduler.step()
            else:
                explorer.step(loss)
        if explorer is not None:
            explorer.converge()
        yield End(number, self._held_out_loss(model), lr * factor)

    @torch.no_grad()
    def _held_out_loss(self, model: ByteTransformer) -> float:
        total = torch.stack([loss_of(model, rows) * len(rows) for rows in self.held_out]).sum()
        dist.all_reduce(total)
        return float(total) / HELD_OUT
