"""Days of trouble in minutes: do the ranks ever drift apart, and does memory stay flat?

    python -m benchmarks soak [--steps 20000] [--seed 0]

Four gloo processes train a tiny batch-norm model under DDP with `hdet.Explorer` and
`hdet.finite_mean_hook`. Faults are injected at random: losses and weights that are not finite,
broken optimizer state, several replicas at once, and ranks that are killed, after which
torchrun restarts all from the last checkpoint. At every sync and in every `converged()` block
each rank notes a hash of all that has to be equal; the notes are compared at the end. Ranks are
killed in the first half only, so that the second is one stretch to judge the memory by.

Everything is drawn from (seed, step): ranks agree on what happens without talking about it, and
a resumed run meets the same faults again.
"""

import gc
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import torch
import torch.distributed as dist
import typer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import hdet
from hdet.seeding import generator

from ..core.ranks import under_torchrun
from ..core.records import write_record
from .analysis import EXPLODING, notes_of, verdict

RANKS, T, WIDTH = 4, 10, 8
# Checkpoints fall between two syncs, where the replicas differ and losses are half counted.
SAVE_EVERY, SAVE_AT = 250, 125
STEPS_PER_KILL = 2000
FAULTY = 0.2  # of the intervals; never two faults in one, or they would add up to all four
LOSS_NAN, LOSS_INF = "loss NaN", "loss infinite"
WEIGHTS, STATE = "weights NaN", "optimizer state NaN"
MANNERS = (LOSS_NAN, LOSS_INF, WEIGHTS, STATE)
TWO, (ALL,) = "two replicas at once", EXPLODING
ODDS = {LOSS_NAN: 10, LOSS_INF: 8, WEIGHTS: 8, STATE: 7, TWO: 6, ALL: 1}


# --- what happens when


@dataclass(frozen=True)
class Fault:
    """What breaks at a step, in which manner, on which replicas."""

    kind: str
    manner: str
    replicas: tuple[int, ...]


@dataclass(frozen=True)
class Kill:
    """Who is killed at a step: within it, or as its checkpoint is being written."""

    step: int
    rank: int
    saving: bool


def saves(step: int) -> bool:
    """Whether a checkpoint is written after a step; steps count from 0."""
    return (step + 1) % SAVE_EVERY == SAVE_AT


def draw_faults(seed: int, steps: int) -> dict[int, Fault]:
    """Return the fault of each step that has one."""
    faults = {}
    # None in the first interval: nothing is averaged yet that all could return to.
    for start in range(T, steps - T + 1, T):
        g = generator(seed, "fault", start)
        if float(torch.rand((), generator=g)) >= FAULTY:
            continue
        odds = torch.tensor(list(ODDS.values()), dtype=torch.float64)
        kind = list(ODDS)[int(torch.multinomial(odds, 1, generator=g))]
        manner = MANNERS[int(torch.randint(len(MANNERS), (), generator=g))]
        order = torch.randperm(RANKS, generator=g).tolist()
        step = start + int(torch.randint(T, (), generator=g))
        # A checkpoint in the same step could heal the fault before the sync's loss shows it.
        step -= saves(step)
        if kind == ALL and any(saves(t) for t in range(start, start + T)):
            kind = TWO  # `converged` raises where nobody is finite, as it says
        count = {TWO: 2, ALL: RANKS}.get(kind, 1)
        replicas = tuple(sorted(order[:count]))
        faults[step] = Fault(kind, kind if kind in MANNERS else manner, replicas)
    return faults


def draw_kills(seed: int, steps: int) -> list[Kill]:
    """Return the kills, spread over the first half; every third comes while saving."""
    count = max(steps // STEPS_PER_KILL, 2)
    slot = steps // 2 // count
    kills = []
    for k in range(count):
        slots = range(k * slot, (k + 1) * slot)
        saving = [t for t in slots if saves(t)] if k % 3 == 1 else []
        # Within an interval, and with syncs to be done again since the last checkpoint.
        places = saving or [t for t in slots if t % T == 3 and (t - SAVE_AT) % SAVE_EVERY > 20]
        g = generator(seed, "kill", k)
        step = places[int(torch.randint(len(places), (), generator=g))]
        rank = 0 if saving else int(torch.randint(RANKS, (), generator=g))
        kills.append(Kill(step, rank, bool(saving)))
    return kills


# --- one rank


class Run:
    """What a rank trains, and what it notes."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.rank, self.seed = dist.get_rank(), seed
        self.attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
        torch.manual_seed(seed)
        layers = [nn.Linear(WIDTH, 32), nn.BatchNorm1d(32), nn.GELU(), nn.Linear(32, 1)]
        self.model = nn.Sequential(*layers)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-3)
        # A single batch: the place in a loader is no part of the state that is resumed.
        probe = hdet.probe(self.model, [self.batch("probe", 0, 256)], self.loss)
        self.explorer = hdet.Explorer(
            self.optimizer,
            explore=[hdet.lr(), hdet.weight_decay()],
            sync_every=T,
            probe=probe,
            model=self.model,
            seed=seed,
        )
        # DDP would send rank 0's batch-norm statistics to all, also where they are NaN.
        self.ddp = DistributedDataParallel(self.model, broadcast_buffers=False)
        self.ddp.register_comm_hook(None, hdet.finite_mean_hook)
        self.checkpoint = folder / "checkpoint.pt"
        # Line by line, so that a killed rank's notes are there up to its end.
        self.notes = (folder / f"{self.attempt}.{self.rank}.notes").open("w", buffering=1)

    def note(self, **what: object) -> None:
        """Write a line."""
        self.notes.write(json.dumps(what) + "\n")

    def batch(self, name: str, step: int, size: int = 16) -> tuple[Tensor, Tensor]:
        """Return inputs and noisy targets of a small regression problem."""
        g = generator(self.seed, name, step)
        x = torch.randn(size, WIDTH, generator=g)
        return x, x.sin().sum(1, keepdim=True) + 0.1 * torch.randn(size, 1, generator=g)

    @staticmethod
    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the mean squared error."""
        return (model(batch[0]) - batch[1]).square().mean()

    def resume(self) -> int:
        """Load the last checkpoint, if there is one, and return the next step."""
        # DDP lays its buckets anew after the first pass, and sums in another order then: with
        # more than two ranks the first step of a resumed run would round otherwise.
        self.loss(self.ddp, self.batch("first pass", 0)).backward()
        if not self.checkpoint.exists():
            return 0
        state = torch.load(self.checkpoint, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.explorer.load_state_dict(state["explorer"])
        return state["step"]

    def step(self, t: int, fault: Fault | None, killed: bool) -> None:
        """Do one training step, with a fault if it is this replica's."""
        if fault is not None and fault.manner in (WEIGHTS, STATE):
            first = next(self.model.parameters())
            broken = (
                first if fault.manner == WEIGHTS else self.optimizer.state[first]["exp_avg"]
            )
            broken.detach()[0] = float("nan")
        self.optimizer.zero_grad()
        loss = self.loss(self.ddp, self.batch(f"rank {self.rank}", t))
        if fault is not None:
            loss = loss * {LOSS_NAN: float("nan"), LOSS_INF: float("inf")}.get(fault.manner, 1)
        if killed:
            self.die(t)
        loss.backward()
        self.optimizer.step()
        self.explorer.step(loss)

    def die(self, t: int) -> None:
        """End as a machine does: without a word to the others."""
        self.note(killed=t, rank=self.rank, saving=saves(t))
        os.kill(os.getpid(), signal.SIGKILL)

    def save(self, t: int, killed: bool) -> None:
        """Write a checkpoint for all ranks, which is there as a whole or not at all."""
        with self.explorer.converged():
            self.meet("converged", t)
            if self.rank == 0:
                state = {
                    "step": t + 1,
                    "model": self.model.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "explorer": self.explorer.state_dict(),
                }
                beside = self.checkpoint.with_suffix(".part")
                torch.save(state, beside)
                if killed:
                    self.die(t)
                os.replace(beside, self.checkpoint)

    def meet(self, where: str, t: int) -> None:
        """Note what has to be the same on all ranks, and what the meeting found."""
        state = self.explorer.state_dict()
        tensors = list(self.model.state_dict().values())
        averaged = state.pop("averaged")
        tensors += [*averaged["weights"].values(), *averaged["buffers"].values()]
        moments = self.optimizer.state_dict()["state"].values()
        tensors += [value for entry in moments for value in entry.values()]
        if where == "converged":
            groups = self.optimizer.param_groups
            state["in place"] = [(g["lr"], g["weight_decay"]) for g in groups]
        else:
            del state["ensemble"]["interval"]  # it says whose it is
        digest = hashlib.sha256(repr(state).encode())
        for tensor in tensors:
            digest.update(tensor.numpy().tobytes())
        metrics = self.explorer.metrics()
        self.note(
            met=where,
            step=t,
            hash=digest.hexdigest()[:32],
            finite=all(bool(x.isfinite().all()) for x in tensors),
            masked=metrics["masked"],
            explosions=metrics["rollbacks"],
        )


def memory() -> int:
    """Return the resident memory of this process in kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def tensors_alive() -> int:
    """Return how many tensors Python knows of."""
    gc.collect()
    return sum(isinstance(thing, Tensor) for thing in gc.get_objects())


def train(folder: Path, steps: int, seed: int) -> None:
    """Be one rank, from the last checkpoint to the end or to a kill."""
    dist.init_process_group("gloo", timeout=timedelta(seconds=120))
    run = Run(folder, seed)
    if run.attempt and not any("killed" in x for x in notes_of(folder, run.attempt - 1)):
        sys.exit("The attempt before ended without a kill: its own error has the cause.")
    faults, kills = draw_faults(seed, steps), draw_kills(seed, steps)
    kill = kills[run.attempt] if run.attempt < len(kills) else Kill(-1, -1, False)
    first, began, early = run.resume(), time.perf_counter(), False
    run.note(began=first)
    for t in range(first, steps):
        fault = faults.get(t)
        mine = fault if fault is not None and run.rank in fault.replicas else None
        killed = kill.step == t and kill.rank == run.rank
        run.step(t, mine, killed and not kill.saving)
        if kill.step >= 0 and t >= kill.step + kill.saving:
            run.note(went_on=t)  # without the one that was killed: an error had to come
        if (t + 1) % T == 0:
            run.meet("sync", t)
        if saves(t):
            run.save(t, killed)
        if (t + 1) % max(steps // 200, 1) == 0:
            run.note(memory=memory(), step=t)
            # By then every list that is ever averaged has been, and has its plan.
            if not early and t >= first + (steps - first) // 10:
                early = True
                run.note(tensors=tensors_alive())
    rate = (steps - first) / (time.perf_counter() - began)
    run.note(tensors=tensors_alive())
    metrics = run.explorer.metrics()
    # The names that the records have.
    names = {"explosions": "rollbacks", "cliffs": "exclusions"}
    keys = ("masked_total", "explosions", "cliffs", "syncs")
    run.note(ended=steps, rate=rate, **{key: metrics[names.get(key, key)] for key in keys})
    dist.barrier()
    dist.destroy_process_group()


# --- all of them


def soak(folder: Path, steps: int, seed: int) -> dict:
    """Have torchrun start the ranks, and again after each kill; return what came of it."""
    faults, kills = draw_faults(seed, steps), draw_kills(seed, steps)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launch += ["--nproc-per-node", str(RANKS), "--max-restarts", str(len(kills))]
    ours = ["-m", "benchmarks", "soak", "--steps", str(steps), "--seed", str(seed)]
    ours += ["--folder", str(folder)]
    # A store for each start: in the one that torchrun shares between them, gloo finds the
    # addresses of processes that are dead (pytorch/pytorch#135712).
    env = os.environ | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    with (folder / "log").open("w") as log:
        done = subprocess.run(launch + ours, stdout=log, stderr=log, env=env, check=False)
    failing = [line for line in (folder / "log").read_text().splitlines() if "Error: " in line]
    return {
        "ranks": RANKS,
        "steps": steps,
        "seed": seed,
        "T": T,
        "checkpoint every": SAVE_EVERY,
        "faulty intervals": FAULTY,
        "exit code": done.returncode,
        "last error": failing[-1] if done.returncode and failing else "",
        **verdict(folder, RANKS, T, faults, len(kills)),
    }


def command(
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 20_000,
    seed: Annotated[int, typer.Option(help="Of faults, kills and data.")] = 0,
    folder: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Inject faults and kill ranks for hours: do they ever drift apart, does memory grow?"""
    if under_torchrun() and folder is not None:
        return train(folder, steps, seed)
    with tempfile.TemporaryDirectory() as temporary:
        content = soak(Path(temporary), steps, seed)
    write_record("soak", "python -m benchmarks soak", content)
    print(json.dumps(content, indent=2))
    raise typer.Exit(int(bool(content["failed"])))
