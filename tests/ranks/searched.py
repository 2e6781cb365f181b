"""The runs with a search for the rate that the tests on ranks share."""

import io
from typing import Any

import torch
import torch.distributed as dist
from schedulefree import AdamWScheduleFree
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, OneCycleLR, SequentialLR

import hdet
from tests.helpers import batch, loss_at, small_model, two_groups

STEPS, T = 200, 6


def schedule_free(model):
    optimizer = AdamWScheduleFree(model.parameters(), lr=0.05)
    optimizer.train()
    return optimizer


OPTIMIZERS = {
    "adamw": lambda m: torch.optim.AdamW(two_groups(m), lr=0.05, weight_decay=0.1),
    "one group": lambda m: torch.optim.AdamW(m.parameters(), lr=0.05),
    "schedule-free": schedule_free,
    "sgd": lambda m: torch.optim.SGD(two_groups(m), lr=0.2, momentum=0.9, weight_decay=1e-3),
}
SCHEDULES = {
    "one cycle": lambda o: OneCycleLR(o, 0.2, STEPS + 1, cycle_momentum=False),
    "cosine": lambda o: CosineAnnealingLR(o, STEPS),
    "none": lambda o: None,
    "warm-up, then cosine": lambda o: SequentialLR(
        o, [LinearLR(o, 0.1, total_iters=20), CosineAnnealingLR(o, STEPS - 20)], [20]
    ),
}


def probe_at(model, call):
    x, y = batch(100_000 + call, 0, size=16)
    return (model(x) - y).square().mean()


def requests(names):
    return [getattr(hdet, name)() if isinstance(name, str) else name for name in names]


class Run:
    """A model under DDP, its optimizer and its Explorer."""

    def __init__(
        self,
        name="adamw",
        schedule: Any = "one cycle",
        explore=("lr",),
        probed=True,
        norm=False,
        by_hand=False,
        tells=True,
        **more,
    ):
        self.model = small_model(norm=norm)
        self.tells = tells  # its losses
        self.by_hand = by_hand  # gradients are averaged in the loop
        self.ddp = self.model if by_hand else DistributedDataParallel(self.model)
        self.optimizer = OPTIMIZERS[name](self.model)
        self.calls = 0
        settings = {"sync_every": T, "model": self.ddp, "seed": 3, **more}
        make = SCHEDULES.get(schedule, schedule)
        self.explorer = hdet.Explorer(
            self.optimizer,
            make(self.optimizer),
            requests(explore),
            probe=self.probe if probed else None,
            **settings,
        )
        self.rates, self.phases = [], []  # in effect at each step

    def probe(self):
        self.calls += 1
        return probe_at(self.model, self.calls - 1)

    def train(self, steps, before_step=lambda t: None):
        for t in steps:
            before_step(t)
            self.optimizer.zero_grad()
            loss = loss_at(self.ddp, t, dist.get_rank())
            loss.backward()
            for p in self.model.parameters() if self.by_hand else ():
                assert p.grad is not None
                dist.all_reduce(p.grad.div_(dist.get_world_size()))
            self.rates.append([float(g["lr"]) for g in self.optimizer.param_groups])
            self.phases.append(self.explorer.metrics()["phase"])
            self.optimizer.step()
            self.explorer.step(loss if self.tells else None)

    def saved(self):
        """Return this rank's checkpoint."""
        file = io.BytesIO()
        parts = [part.state_dict() for part in (self.model, self.explorer, self.optimizer)]
        torch.save([*parts, self.calls], file)
        return file.getvalue()

    def load(self, saved):
        *states, self.calls = torch.load(io.BytesIO(saved), weights_only=True)
        parts = (self.model, self.explorer, self.optimizer)
        for part, state in zip(parts, states, strict=True):
            part.load_state_dict(state)

    def end(self):
        """Return all that has to be the same where two runs are."""
        told = self.explorer.metrics()
        kept = ("values", "replica_lr", "phase", "syncs", "losses")
        state = self.optimizer.state_dict()["state"]
        return {
            "weights": [t.clone() for t in self.model.state_dict().values()],
            "moments": [t.clone() for s in state.values() for t in s.values()],
            "told": {key: told.get(key) for key in kept},
        }


def same(first, second):
    """Return whether two ends are, to the last bit."""
    tensors = [[*end["weights"], *end["moments"]] for end in (first, second)]
    alike = all(torch.equal(x, y) for x, y in zip(*tensors, strict=True))
    return alike and repr(first["told"]) == repr(second["told"])
