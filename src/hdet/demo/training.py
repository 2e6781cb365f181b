"""What each rank of the learning rate demo does: all runs, turn by turn.

The runs advance together, an interval each in turn, so that all can be watched at once. Only
the ranks import this module, so that their parent need not wait for torch.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import CosineAnnealingLR

import hdet

from ..seeding import generator
from .learning_rate import STDLIB
from .text import HELD_OUT, ByteTransformer, loss_of, read_text

BATCH = 8  # rows of text that a rank reads in a step
# The probe's batch is several times a rank's, and of text that no rank trains on.
PROBE_BATCH = 64


def train(
    rank: int,
    size: int,
    send: Callable[[tuple[float, ...]], None],
    steps: int,
    seed: int,
    jobs: Sequence[tuple[float, bool]],
    logs: Sequence[str | None],
) -> None:
    """Train from each job's rate, by Explorer or not; rank 0 sends how it goes.

    An Explorer writes its record to the job's log.

    That is (job, step, rate, training loss) after each interval, then (job, held-out loss, rate
    found).
    """
    trainer = _Trainer(rank, size, steps, seed)
    runs = [trainer.run(*job, log) for job, log in zip(jobs, logs, strict=True)]
    # Every rank takes the same turns, and so makes the same collective calls.
    for turn in zip(*runs, strict=True):
        for number, said in enumerate(turn):
            if rank == 0:
                send((number, *said))


class _Trainer:
    def __init__(self, rank: int, size: int, steps: int, seed: int) -> None:
        self.size, self.steps, self.seed = size, steps, seed
        self.interval = max(1, steps // 100)
        text, held_out = read_text(STDLIB)
        order = torch.randperm(len(text), generator=generator(seed, "demo", "order"))
        probed = PROBE_BATCH * (steps // self.interval)
        self.probe = text[order[:probed]].split(PROBE_BATCH)
        self.batches = text[order[probed:][rank::size]].split(BATCH)
        spread = torch.linspace(0, len(held_out) - 1, HELD_OUT).long()
        self.held_out = held_out[spread[rank::size]].split(64)

    def run(self, lr: float, explores: bool, log: str | None) -> Iterator[tuple[float, ...]]:
        # These processes are the demo's own; all runs begin at the same weights.
        torch.set_rng_state(generator(self.seed, "demo", "weights").get_state())
        model = ByteTransformer()
        ddp = DistributedDataParallel(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr)
        scheduler, explorer = CosineAnnealingLR(optimizer, self.steps), None
        if explores:
            explorer = hdet.Explorer(
                optimizer,
                scheduler,
                probe=hdet.probe(model, self.probe, loss_of),
                model=ddp,
                sync_every=self.interval,
                seed=self.seed,
                log=log,
            )
        losses = torch.zeros(())
        for step, batch in enumerate(self.batches[: self.steps], 1):
            loss = loss_of(ddp, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses += loss.detach() / (self.size * self.interval)
            if step % self.interval == 0:
                rates = explorer.metrics()["base_lr"] if explorer else scheduler.get_last_lr()
                dist.all_reduce(losses)
                yield step, float(rates[0]), float(losses)
                losses.zero_()
            if explorer:
                explorer.step(loss)
            else:
                scheduler.step()
        if explorer:
            explorer.converge()
        with torch.no_grad():
            total = sum(loss_of(model, rows) * len(rows) for rows in self.held_out)
        total = torch.as_tensor(total)
        dist.all_reduce(total)
        yield float(total) / HELD_OUT, explorer.found()[0] if explorer else lr
