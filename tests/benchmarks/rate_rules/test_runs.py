"""The batch of models is what single models come to, and the rules do what they say."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.rate_rules.models import GPT, drawn, repeated
from benchmarks.rate_rules.rules import Rows, Rule, share
from benchmarks.rate_rules.runs import AdamW, run, trials

STEPS, WINDOWS, RATE = 40, 4, 1e-2
SMALL = (16, 1, 8)


@pytest.fixture(scope="module")
def model() -> GPT:
    return GPT(*SMALL, standard=False)


def test_a_standard_model_is_that_of_torchs_modules() -> None:
    model = GPT(64, 1, 8, standard=True)
    weights = model.initial(0) + 0.02 * torch.randn(model.count, generator=drawn("test"))
    inputs, targets = model.batch(drawn("test"), 3)
    p = dict(zip(model.shapes, weights.split(model.sizes), strict=True))
    p = {name: part.view(model.shapes[name]) for name, part in p.items()}
    block = nn.TransformerEncoderLayer(
        64, 1, 256, 0.0, F.gelu, batch_first=True, norm_first=True
    )
    state = {}
    for theirs, ours in {
        "self_attn.in_proj_": "0.qkv",
        "self_attn.out_proj.": "0.mix",
        "linear1.": "0.expand",
        "linear2.": "0.shrink",
        "norm1.": "0.norm_1",
        "norm2.": "0.norm_2",
    }.items():
        state |= {f"{theirs}weight": p[ours].t(), f"{theirs}bias": p[f"{ours}.bias"]}
    block.load_state_dict(state)
    later = nn.Transformer.generate_square_subsequent_mask(8)
    h = block(p["token"][inputs] + p["position"], src_mask=later, is_causal=True)
    h = F.layer_norm(h, (64,), p["norm"], p["norm.bias"])
    wanted = F.cross_entropy((h @ p["head"]).flatten(0, 1), targets.flatten())
    found = model.loss(weights[None], *repeated((inputs, targets), 1))
    torch.testing.assert_close(found[0], wanted)


def test_a_plain_row_is_torchs_adamw_under_the_schedule(model: GPT) -> None:
    found = run(model, "cosine", STEPS, WINDOWS, [Rule(fixed=0.5), Rule()], [RATE], [0, 1])
    weights = nn.Parameter(model.initial(1)[None])
    optimizer = torch.optim.AdamW([weights], lr=RATE)
    stream = drawn("data", model.name, 1, 0)
    for t in range(STEPS):
        optimizer.param_groups[0]["lr"] = 0.5 * RATE * (1 + math.cos(math.pi * t / STEPS)) / 2
        loss = model.loss(weights, *repeated(model.batch(stream, WINDOWS), 1))
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
    torch.testing.assert_close(found.held_out[0, 0, 1], model.held_out(weights.detach())[0])
    assert found.rates[0, 0, 1] == pytest.approx(0.5 * RATE)


def test_one_cycle_is_torchs() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1.0, total_steps=STEPS, cycle_momentum=False
    )
    wanted = []
    for _ in range(STEPS):
        wanted.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    every = torch.arange(STEPS, dtype=torch.float64)
    found = share("one-cycle", every, torch.full_like(every, STEPS))
    torch.testing.assert_close(found.tolist(), wanted)


def climbed(rule: Rule, signals: list[float]) -> Rows:
    """Return a row that has seen the signals, one a step from the first."""
    rows = Rows([rule], 1, 1000)
    for t, signal in enumerate(signals, 1):
        seen = torch.tensor([signal])
        rows.climb(t, seen, seen)
        rows.land(t)
    return rows


def test_a_rate_climbs_to_the_crossing_and_lands_below_it() -> None:
    rule = Rule(crossings=1, cut=math.log(2), lag=0.0, shift=math.log(1.25), smooth=1.0)
    # Fast, fast, then slow four times; the seventh signal crosses.
    rows = climbed(rule, [1.0, 0.9, 0.5, 0.5, 0.5, 0.5, -0.1, 0.5])
    crossing = math.log(1e-3) + 2 * 0.3 + 4 * 0.1
    assert rows.crossed[0, 0] == pytest.approx(crossing)
    assert rows.x[0] == pytest.approx(crossing - math.log(2) - math.log(1.25))
    assert rows.held[0]


def test_the_first_of_several_crossings_does_not_count() -> None:
    rule = Rule(crossings=2, cut=1.0, lag=0.5, shift=0.0, smooth=1.0, slow=0.2)
    rest = [0.5] * 6  # five steps of no move, and one up
    rows = climbed(rule, [*[0.5] * 6, -0.1, *rest, -0.1])
    first, second = rows.crossed[0, 0], rows.crossed[1, 0]
    assert second == pytest.approx(float(first) - 1.5 + 0.2)
    assert rows.x[0] == pytest.approx(float(second))


@pytest.mark.parametrize("roll", ["climb", "initial"])
def test_a_crossing_goes_back_and_begins_the_moments_anew(model: GPT, roll: str) -> None:
    rule = Rule(roll=roll, crossings=1, slow=1.0, cut=5.0)
    kept = replace(rule, roll="none", clear="none")
    found = run(model, "cosine", STEPS, WINDOWS, [rule, kept], [300.0], [0])
    assert found.crossings[0, 0].isfinite().all()
    assert found.crossings[0, 0] == found.crossings[0, 1]
    assert found.held_out[0, 0, 0] < found.held_out[1, 0, 0]


def test_moments_of_one_row_are_cleared() -> None:
    weights = torch.zeros(2, 3)
    adamw, ones = AdamW(weights), torch.ones(2, 3)
    for _ in range(3):
        adamw.direction(ones)
    adamw.clear(0, both=True)
    adamw.clear(1, both=False)
    assert adamw.first[0].sum() == 0
    assert adamw.first[1].sum() > 0
    assert adamw.second.sum() == 0
    # Bias-corrected, a constant gradient gives a step of one whatever was cleared.
    torch.testing.assert_close(adamw.direction(ones), -ones)


def test_trials_begin_at_one_place_and_a_rate_of_zero_changes_nothing(model: GPT) -> None:
    losses = trials(model, WINDOWS, [0.0, 1e-2], [4, 8], before=(5, 1e-3))
    assert losses[4][0] == losses[8][0]
    assert losses[8][1] < losses[8][0]
