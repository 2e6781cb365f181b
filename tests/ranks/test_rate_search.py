"""The search for the learning rate's scale on real ranks, against the reference."""

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, OneCycleLR, SequentialLR

import hdet
from hdet.replica.explorer import reference
from tests.helpers import batch, loss_at, small_model, two_groups, weights
from tests.rank_runner import run_ranks

pytestmark = pytest.mark.ranks

STEPS, T = 200, 6
OPTIMIZERS = {
    "adamw": lambda m: torch.optim.AdamW(two_groups(m), lr=0.05, weight_decay=0.1),
    "one group": lambda m: torch.optim.AdamW(m.parameters(), lr=0.05),
    "sgd": lambda m: torch.optim.SGD(two_groups(m), lr=0.2, momentum=0.9, weight_decay=1e-3),
}
SCHEDULES = {
    "one cycle": lambda o: OneCycleLR(o, 0.2, STEPS + 1, cycle_momentum=False),
    "cosine": lambda o: CosineAnnealingLR(o, STEPS),
    "none": None,
    "warm-up, then cosine": lambda o: SequentialLR(
        o, [LinearLR(o, 0.1, total_iters=20), CosineAnnealingLR(o, STEPS - 20)], [20]
    ),
}


def probe_at(model, call):
    x, y = batch(100_000 + call, 0, size=16)
    return (model(x) - y).square().mean()


def requests(names):
    return [getattr(hdet, name)() for name in names]


class Run:
    """A model under DDP, its optimizer and its Explorer."""

    def __init__(
        self, name="adamw", schedule="one cycle", explore=("lr",), probed=True, **more
    ):
        self.model = small_model()
        self.ddp = DistributedDataParallel(self.model)
        self.optimizer = OPTIMIZERS[name](self.model)
        self.calls = 0
        settings = {"sync_every": T, "model": self.ddp, "seed": 3, **more}
        make = SCHEDULES[schedule]
        self.explorer = hdet.Explorer(
            self.optimizer,
            make and make(self.optimizer),
            requests(explore),
            probe=self.probe if probed else None,
            **settings,
        )
        self.rates, self.phases = [], []

    def probe(self):
        self.calls += 1
        return probe_at(self.model, self.calls - 1)

    def train(self, steps):
        for t in steps:
            self.optimizer.zero_grad()
            loss = loss_at(self.ddp, t, dist.get_rank())
            loss.backward()
            self.rates.append([float(g["lr"]) for g in self.optimizer.param_groups])
            self.phases.append(self.explorer.metrics()["phase"])
            self.optimizer.step()
            self.explorer.step(loss)


def _agrees(name, schedule, explore):
    run = Run(name, schedule, explore)
    run.train(range(STEPS))
    return run.rates, run.phases, weights(run.model), run.explorer.metrics()


CASES = [
    ("adamw", "one cycle", ["lr"]),
    ("sgd", "cosine", ["lr"]),
    ("one group", "warm-up, then cosine", ["lr"]),
    ("adamw", "none", ["lr", "weight_decay"]),
]


@pytest.mark.filterwarnings("ignore:.*cannot tell their effects apart")
@pytest.mark.parametrize(("name", "schedule", "explore"), CASES)
def test_four_ranks_agree_with_the_reference_from_the_climb_to_the_end(name, schedule, explore):
    ranks = run_ranks(_agrees, 4, name, schedule, explore)
    trace = reference.train(
        small_model(),
        OPTIMIZERS[name],
        SCHEDULES[schedule],
        loss_at,
        probe_at,
        explore=lambda _: requests(explore),
        replicas=4,
        total_steps=STEPS,
        T=T,
        seed=3,
    )
    for r, (rates, phases, parameters, metrics) in enumerate(ranks):
        expected = [[group[r] for group in step] for step in trace.rates]
        assert list(dict.fromkeys(phases)) == ["climb", "settle", "trial", "track"]
        torch.testing.assert_close(
            torch.tensor(rates, dtype=torch.float64),
            torch.tensor(expected, dtype=torch.float64),
            rtol=1e-7,
            atol=0,
        )
        for mine, theirs in zip(parameters, trace.models[r].parameters(), strict=True):
            torch.testing.assert_close(mine, theirs.detach(), rtol=1e-6, atol=1e-8)
        assert list(metrics["values"].values()) == pytest.approx(trace.values[-1], rel=1e-7)
