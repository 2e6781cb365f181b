"""Runs by many rules as one batch of models, and short whole trials.

A trial is a whole run in small: warm-up over a quarter, decay to zero over the last two fifths,
at rates on a grid, from the initial weights or after some steps at a low rate; the held-out
loss of each tells which rate it would choose.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .models import DEVICE, GPT, drawn, repeated
from .rules import MOST, Rows, Rule, share

BETAS, EPS, DECAY = (0.9, 0.999), 1e-8, 0.01  # AdamW's
SNAPSHOTS, SNAPSHOT_EVERY = 14, 3  # of the climb
WARMUP, FALL = 0.25, 0.4  # of a trial


@dataclass(frozen=True)
class Found:
    """What the runs came to, each [rule, start, seed]."""

    held_out: Tensor
    rates: Tensor  # peak rates at the end
    crossings: Tensor  # rates, [crossing, rule, start, seed]; NaN for none


class AdamW:
    """The moments of every row."""

    def __init__(self, weights: Tensor) -> None:
        self.first, self.second = torch.zeros_like(weights), torch.zeros_like(weights)
        self.steps = torch.zeros_like(weights[:, :1])
        self.left = torch.ones_like(self.steps)  # product of all beta2

    def direction(self, gradients: Tensor, beta2: Tensor | float = BETAS[1]) -> Tensor:
        """Take gradients in, and return the update per unit of rate."""
        # A row that has diverged stands still; its loss tells.
        gradients = gradients.nan_to_num(0, 0, 0)
        self.steps += 1
        self.left *= beta2
        self.first.lerp_(gradients, 1 - BETAS[0])
        self.second.mul_(beta2).add_((1 - beta2) * gradients * gradients)
        first = self.first / (1 - BETAS[0] ** self.steps)
        return -first / ((self.second / (1 - self.left)).sqrt() + EPS)

    def clear(self, row: int, both: bool) -> None:
        """Begin the second moment of a row anew, or both."""
        self.second[row], self.left[row] = 0, 1
        if both:
            self.first[row], self.steps[row] = 0, 0


def run(
    model: GPT,
    schedule: str,
    steps: int,
    windows: int,
    rules: Sequence[Rule],
    starts: Sequence[float],
    seeds: Sequence[int],
) -> Found:
    """Train by every rule from every start (peak rates) and seed, all at once."""
    each, shape = len(starts) * len(seeds), (len(rules), len(starts), len(seeds))
    rows = Rows(rules, each, steps)
    peaks = torch.tensor(starts, device=DEVICE).repeat_interleave(len(seeds)).repeat(len(rules))
    seed_of = torch.arange(len(seeds), device=DEVICE).repeat(len(rules) * len(starts))
    initial = torch.stack([model.initial(seed) for seed in seeds])
    weights = initial[seed_of].clone()
    adamw, streams = AdamW(weights), [drawn("data", model.name, seed, 0) for seed in seeds]
    began, fresh = torch.zeros_like(peaks), torch.full_like(peaks, -math.inf)
    highest, size = torch.zeros_like(peaks), torch.zeros_like(peaks)
    updates, moved = torch.zeros_like(weights), torch.zeros_like(rows.held)
    snapshots: list[tuple[Tensor, Tensor]] = []
    for t in range(steps):
        batches = [model.batch(stream, windows) for stream in streams]
        inputs, targets = (torch.stack(c)[seed_of] for c in zip(*batches, strict=True))
        gradients = _gradients(model, weights, inputs, targets)
        shares = share(schedule, t - began, steps - began)
        highest, back = highest.maximum(shares), torch.zeros_like(rows.held)
        if t:
            agreement, cosine = _signals(updates, size, gradients)
            agreement = torch.where(moved, agreement, rows.smoothed)
            cosine = torch.where(moved, cosine, 0)
            if t % SNAPSHOT_EVERY == 0:
                if (~rows.held & (rows.count == 0)).any():
                    snapshots.append((rows.x.clone(), weights.clone()))
                    del snapshots[:-SNAPSHOTS]
                else:
                    snapshots.clear()
            crossed = rows.climb(t, agreement, cosine)
            for row in crossed.nonzero().flatten().tolist():
                rule = rows.rules[row]
                back[row] = rule.roll != "none"
                if rule.roll == "initial":
                    weights[row] = initial[seed_of[row]]
                elif rule.roll == "climb":
                    below = [w for x, w in snapshots if x[row] <= rows.x[row]]
                    weights[row] = (below or [snapshots[0][1]])[-1][row]
                if rule.clear != "none":
                    adamw.clear(row, both=rule.clear == "all")
                    fresh[row] = t
                if rule.restart:
                    began[row], highest[row] = t, 1e-9
            rows.land(t)
            rows.climb_again(t, began)
            rows.hold(t, agreement, cosine, shares, highest)
        beta2 = torch.where(rows.held, BETAS[1], rows.c["beta2"])[:, None]
        direction = adamw.direction(gradients, beta2)
        follows = rows.is_fixed | ((rows.c["restart"] > 0) & (rows.count > 0))
        part = torch.where(rows.held, shares / highest, 1).where(~follows, shares)
        rates = rows.x.exp() * peaks * part * ((t - fresh) / rows.c["warmup"]).clamp(0, 1)
        weights.mul_(1 - DECAY * rates[:, None])
        updates = direction.mul_(torch.where(back, 0, rates)[:, None])
        weights.add_(updates)
        size, moved = updates.norm(dim=1), ~back & (rates > 0)
    crossings = (rows.crossed.exp() * peaks).view(MOST, *shape)
    ends = (rows.x.exp() * peaks).view(shape)
    return Found(model.held_out(weights).view(shape).cpu(), ends.cpu(), crossings.cpu())


def trials(
    model: GPT,
    windows: int,
    rates: Sequence[float],
    lengths: Sequence[int],
    before: tuple[int, float] | None = None,
) -> dict[int, list[float]]:
    """Return the loss at the end of a trial at each rate, by length in steps.

    All trials begin at the same weights: the initial ones, or those after `before`, a number of
    steps at a rate. The loss is that of one batch, four times a step's, not trained on.
    """
    models, stream = len(rates), drawn("trial", model.name)
    batch = model.batch(drawn("tprobe", model.name), 4 * windows)

    def train(weights: Tensor, adamw: AdamW, steps: int, rate: Callable) -> Tensor:
        for t in range(steps):
            step = repeated(model.batch(stream, windows), models)
            direction = adamw.direction(_gradients(model, weights, *step))
            weights = weights + rate(t)[:, None] * direction
        return weights

    first = model.initial(0).repeat(models, 1)
    adamw, found = AdamW(first), {}
    if before is not None:
        steps, low = before
        flat = torch.full((models,), low, device=DEVICE)
        first = train(first, adamw, steps, lambda t: flat * min(1.0, (t + 1) / 10))
    peaks = torch.tensor(rates, device=DEVICE)
    for n in lengths:

        def rate(t: int, n: int = n) -> Tensor:
            return peaks * min(1.0, (t + 1) / (WARMUP * n)) * min(1.0, (n - t) / (FALL * n))

        weights = train(first, copy.deepcopy(adamw), n, rate)
        with torch.no_grad():
            losses = [model.loss(one, *repeated(batch, 1)) for one in weights.split(1)]
        found[n] = torch.cat(losses).tolist()
    return found


def _gradients(model: GPT, weights: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
    leaf = weights.detach().requires_grad_()
    (found,) = torch.autograd.grad(model.loss(leaf, inputs, targets).sum(), leaf)
    return found.float()


def _signals(updates: Tensor, size: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
    """Return agreement and cosine; -1 where the update was not finite."""
    products = updates * gradients
    against, tiny = -products.sum(1), 1e-30
    agreement = against / (products.abs().sum(1) + tiny)
    cosine = against / (gradients.norm(dim=1) * size + tiny)
    return agreement.nan_to_num(-1.0), cosine.nan_to_num(-1.0)
