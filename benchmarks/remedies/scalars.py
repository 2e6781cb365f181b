"""Other scalars than the learning rate, started at a bad value; and rates of the groups.

Weight decay, dropout and label smoothing start far from their best value, alone and together
with the learning rate (4 dimensions, 8 replicas), on 400 images of handwritten digits, few
enough to be overfitted. The share of the gap that is closed is

    (loss at the bad value - loss explored) / (loss at the bad value - loss at the best value),

where the best value is that of a sweep of plain runs. Writes records/scalars.json.
"""

import math
import multiprocessing
import statistics
from collections.abc import Sequence

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import hdet
from hdet.replica.explorer import reference as explorer_reference
from hdet.seeding import generator

from ..core.records import write_record
from ..core.statistics import estimate
from ..robustness.ours import SYNC_EVERY
from ..tasks import _weights, get_task

REPLICAS, BATCH, STEPS = 8, 8, 500
GOOD = {"lr": 1e-2, "weight_decay": 0.03, "p": 0.05, "label_smoothing": 0.02}
BAD = {"lr": 3e-4, "weight_decay": 20.0, "p": 0.8, "label_smoothing": 0.6}
SWEEP = {
    "lr": [1e-3, 3e-3, 1e-2, 3e-2],
    "weight_decay": [1e-3, 0.03, 0.3, 1.0, 3.0],
    "p": [0.0, 0.1, 0.2, 0.35, 0.5],
    "label_smoothing": [0.0, 0.02, 0.05, 0.1, 0.2],
}
CASES = {
    "weight decay": ["weight_decay"],
    "dropout": ["p"],
    "label smoothing": ["label_smoothing"],
    "all three and the learning rate": ["lr", "weight_decay", "p", "label_smoothing"],
}
GROUP_STEPS, GROUP_LR = 200, 1e-2


class Net(nn.Module):
    """An MLP with its dropout, and the loss that it is trained with."""

    def __init__(self, p: float, label_smoothing: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(64, 128), nn.ReLU(), nn.Dropout(p), nn.Linear(128, 10)
        )
        self.criterion = nn.CrossEntropyLoss(label_smoothing=label_smoothing)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def data() -> list[tuple[Tensor, Tensor]]:
    """Return training, probe and held-out images with labels."""
    pixels, targets = load_digits(return_X_y=True)
    order = torch.randperm(len(targets), generator=generator(0, "scalars"))
    images = torch.as_tensor(pixels, dtype=torch.float32)[order] / 16
    labels = torch.as_tensor(targets)[order]
    cuts = [(0, 400), (400, 900), (900, len(labels))]
    return [(images[a:b], labels[a:b]) for a, b in cuts]


def run(values: dict[str, float], explored: Sequence[str], seed: int) -> tuple[float, dict]:
    """Train once; return the held-out loss and the final values of what was explored."""
    train, probed, held = data()
    model = _weights.initialised(
        lambda: Net(values["p"], values["label_smoothing"]), generator(seed, "scalars model")
    )

    def pick(part: tuple[Tensor, Tensor], size: int, *key: object) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(part[1]), (size,), generator=generator(seed, *key))
        return part[0][chosen], part[1][chosen]

    # A plain run sees the batches of all replicas, too: two models stand for equal ones.
    replicas = REPLICAS if explored else 2
    share = REPLICAS // replicas

    def loss(net: Net, step: int, rank: int) -> Tensor:
        parts = [
            pick(train, BATCH, "train", step, r)
            for r in range(rank * share, (rank + 1) * share)
        ]
        x, y = (torch.cat(column) for column in zip(*parts, strict=True))
        return net.criterion(net(x), y)

    def probe(net: Net, sync: int) -> Tensor:
        x, y = pick(probed, 128, "probe", sync)
        # What acts through the shared gradient alone is invisible: the probe has to see it.
        seen = {"p", "label_smoothing"} & set(explored)
        return net.criterion(net(x), y) if seen else F.cross_entropy(net(x), y)

    def explore(net: Net) -> list:
        made = {
            "lr": lambda: hdet.lr(),
            "weight_decay": lambda: hdet.weight_decay(),
            "p": lambda: hdet.attribute(net.layers[2], "p", bounds=(0.0, 0.9)),
            "label_smoothing": lambda: hdet.attribute(
                net.criterion, "label_smoothing", bounds=(0.0, 0.9)
            ),
        }
        return [made[name]() for name in explored]

    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(generator(seed, "dropout").get_state())
        trace = explorer_reference.train(
            model,
            lambda net: torch.optim.AdamW(
                net.parameters(), values["lr"], weight_decay=values["weight_decay"]
            ),
            lambda o: torch.optim.lr_scheduler.OneCycleLR(
                o, values["lr"], total_steps=STEPS, cycle_momentum=False
            ),
            loss,  # pyright: ignore[reportArgumentType]
            probe if explored else None,  # pyright: ignore[reportArgumentType]
            explore=explore,  # pyright: ignore[reportArgumentType]
            replicas=replicas,
            total_steps=STEPS,
            T=SYNC_EVERY,
            seed=seed,
            probe_mode="train",
        )
    net = trace.models[0].eval()
    with torch.no_grad():
        final = float(F.cross_entropy(net(held[0]), held[1]))
    last = trace.values[-1] if trace.values else []
    return final, dict(zip(explored, last, strict=True))


def groups(seed: int) -> dict[str, list[float]]:
    """Train the text task with a rate for each of the paper's groups; return their factors."""
    task = get_task("text")
    model = task.model(generator(seed, "text", "model"))
    names = [group["name"] for group in task.groups(model)]
    trace = explorer_reference.train(
        model,
        lambda net: torch.optim.AdamW(task.groups(net), GROUP_LR),
        lambda o: torch.optim.lr_scheduler.OneCycleLR(
            o, GROUP_LR, total_steps=GROUP_STEPS, cycle_momentum=False
        ),
        lambda net, step, rank: task.loss(net, task.batch(seed, step, rank, REPLICAS)),
        lambda net, sync: task.loss(net, task.batch(10_000 + seed, sync, 0, 1)),
        explore=lambda _: [hdet.lr()],
        replicas=REPLICAS,
        total_steps=GROUP_STEPS,
        T=SYNC_EVERY,
        seed=seed,
    )
    return {name: [row[j] for row in trace.values] for j, name in enumerate(names)}


def job(work: tuple) -> tuple:
    """Do one unit of work in a process of its own."""
    torch.set_num_threads(1)
    kind, arguments = work
    return work, run(*arguments) if kind == "run" else groups(*arguments)


def mean_error(values: Sequence[float]) -> dict[str, float]:
    """Return a mean over seeds and its standard error."""
    found = estimate(values)
    return {"mean": found.mean, "error": found.error}


def scalars(seeds: range) -> None:
    """Measure both, and write the record."""
    plain = [{**GOOD, name: value} for name, grid in SWEEP.items() for value in grid]
    work: list[tuple] = [("groups", (seed,)) for seed in seeds]
    for case in CASES.values():
        bad = {**GOOD, **{name: BAD[name] for name in case}}
        work += [("run", (bad, names, seed)) for seed in seeds for names in ([], case)]
    work += [("run", (values, [], seed)) for seed in seeds for values in [GOOD, *plain]]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        done = pool.map(job, work, chunksize=1)

    def losses(values: dict[str, float], explored: Sequence[str] = ()) -> list[float]:
        wanted = (values, list(explored))
        found = [(w[1][2], r[0]) for w, r in done if w[0] == "run" and w[1][:2] == wanted]
        return [loss for _, loss in sorted(dict(found).items())]

    best = {}
    for name, grid in SWEEP.items():
        candidates = [GOOD, *({**GOOD, name: value} for value in grid)]
        best[name] = min(candidates, key=lambda v: statistics.fmean(losses(v)))
    cases = {}
    for label, names in CASES.items():
        bad = {**GOOD, **{name: BAD[name] for name in names}}
        # Together, the better of the best single change and the good values.
        top = min((best[name] for name in names), key=lambda v: statistics.fmean(losses(v)))
        triples = zip(losses(bad), losses(bad, names), losses(top), strict=True)
        shares = [(a - b) / (a - c) for a, b, c in triples]
        ends = [r[1] for w, r in done if w[0] == "run" and w[1][:2] == (bad, names)]
        cases[label] = {
            "explored": names,
            "bad": {name: bad[name] for name in names},
            "best": {name: top[name] for name in names},
            "final": {n: mean_error([end[n] for end in ends]) for n in names},
            "loss at the bad value": mean_error(losses(bad)),
            "loss explored": mean_error(losses(bad, names)),
            "loss at the best value": mean_error(losses(top)),
            "share of the gap closed": mean_error(shares),
        }
    series = [result for w, result in done if w[0] == "groups"]
    ratio: dict[str, list[float]] = {}
    for factors in series:
        last = {name: rows[-1] for name, rows in factors.items()}
        middle = math.exp(statistics.fmean(map(math.log, last.values())))
        for name, value in last.items():
            ratio.setdefault(name, []).append(value / middle)
    write_record(
        "scalars",
        "python -m benchmarks remedies",
        {
            "replicas": REPLICAS,
            "steps": STEPS,
            "sync_every": SYNC_EVERY,
            "seeds": len(seeds),
            "sweep": {
                name: {str(value): mean_error(losses({**GOOD, name: value})) for value in grid}
                for name, grid in SWEEP.items()
            },
            "cases": cases,
            "groups": {
                "task": "text",
                "steps": GROUP_STEPS,
                "factor over the geometric mean": {n: mean_error(v) for n, v in ratio.items()},
            },
        },
    )
