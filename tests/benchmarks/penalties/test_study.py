"""Learned penalties beside a grid search: tables by hand, the refit, and the page."""

from typing import Any

import torch
from torch import nn

from benchmarks.core.page import DOCS, render
from benchmarks.penalties import study
from benchmarks.penalties.analysis import BASELINE, layer_table, logistic_tables


def test_tables_by_hand() -> None:
    ours, theirs = [0.2, 0.4], [0.3, 0.3]
    rest: dict[str, Any] = {"accuracy": [0.9, 1.0], "seconds": [1.0, 2.0]}
    rows = {BASELINE: {"loss": theirs, **rest}, "one": {"loss": ours, **rest}}
    data = {"a": {"fit": [1200, 3], "rows": rows}, "b": {"fit": [5, 2], "rows": {**rows}}}
    del data["b"]["rows"]["one"]
    scores, gaps = logistic_tables(data)
    assert list(scores.columns) == ["", "a (1,200 x 3)", "b (5 x 2)"]
    assert list(scores.iloc[1]) == ["one", "0.300 ± 0.100, 95.0 %, 1.5 s", ""]
    # Differences of -0.1 and 0.1.
    assert list(gaps.iloc[0]) == ["one", "+0.0000 ± 0.1000", ""]


def test_a_layer_s_table_by_hand() -> None:
    names = ["none learned", "in all", "per class", "per weight"]
    seed = {name: {"judged": (0.2, 0.9), "refitted": (0.1, 0.95)} for name in names}
    found = layer_table([{"as trained": {"judged": (0.4, 0.5)}, **seed}] * 2)
    assert list(found.iloc[0]) == ["as trained", "0.400 ± 0.000", ""]
    assert found["refitted"].iloc[2] == "0.100 ± 0.000"


def test_the_refitted_layer_is_that_of_half_the_decay() -> None:
    """At its minimum the gradient over all parts, with half of each decay, is zero."""
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 3, generator=draw), torch.arange(40) % 2
    model = nn.Sequential(nn.Identity(), nn.Linear(3, 2))
    theta = torch.full((1, 1), -2.0, dtype=torch.float64)
    layer = study.refit(model, [(x[:20], y[:20]), (x[20:], y[20:])], theta)
    w = {name: p.clone().requires_grad_() for name, p in layer.items()}
    loss = nn.functional.cross_entropy(x.double() @ w["weight"].T + w["bias"], y)
    decay = (theta.exp() * w["weight"].square()).sum() / 4
    ridge = 0.5e-3 * sum(p.square().sum() for p in w.values()) / 2
    (loss + decay + ridge).backward()
    assert all(p.grad is not None and p.grad.abs().max() < 1e-4 for p in w.values())


def test_the_page_comes_from_the_record() -> None:
    assert render("penalties") == (DOCS / "penalties.md").read_text()
