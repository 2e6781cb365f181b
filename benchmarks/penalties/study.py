"""Learned penalties against a single one: logistic regression, and a network's last layer.

Logistic regression on splits of digits, breast cancer and noise with few features that matter:
test loss, accuracy and CPU seconds of `RegularizedLogisticRegression` and scikit-learn's
`LogisticRegressionCV`. Then examples/head_decay.py, and its layers refitted to all images,
the validation images included, which is what the learned decays have to beat.
"""

import math
import os
import platform
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import sklearn
import torch
import typer
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import accuracy_score, log_loss
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch.nn import functional as F

from hdet.bilevel import Problem, RegularizedLogisticRegression, hypergradient

from ..core.page import table
from ..core.records import write_record
from .analysis import BASELINE, layer_table, logistic_tables

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
import head_decay  # pyright: ignore[reportMissingImports]

Part = tuple[torch.Tensor, torch.Tensor]
FEATURES, MATTER, FIT, TEST = 100, 8, 300, 2000
DATA = ("digits", "breast cancer", "noise")
# The baseline chooses by what is measured here, as ours does, and is let converge.
GRID: dict[str, Any] = {"Cs": 10, "cv": 5, "scoring": "neg_log_loss", "max_iter": 1000}
# The defaults from scikit-learn 1.10 on.
NEW_DEFAULTS: dict[str, Any] = {"l1_ratios": (0.0,), "use_legacy_attributes": False}
METHODS: dict[str, dict[str, Any]] = {
    '`"one"`': {"penalty": "one"},
    '`"class"`': {"penalty": "class"},
    '`"feature"`': {"penalty": "feature"},
    '`"weight"`': {"penalty": "weight"},
    '`"weight"`, no prior': {"penalty": "weight", "width": math.inf},
    '`"weight"`, no prior, one split': {
        "penalty": "weight",
        "width": math.inf,
        "validation": 0.2,
    },
}
# With two classes there is one column of weights: these are "weight" and "one".
MANY_CLASSES = {'`"class"`', '`"feature"`'}
START = -5.0  # of head_decay's theta


def data(name: str, split: int) -> Any:
    """Return standardised examples to fit and to test on, and their classes."""
    if name == "noise":
        draw = np.random.default_rng(split)
        x = draw.standard_normal((FIT + TEST, FEATURES))
        pull = draw.choice([-1.0, 1.0], MATTER)
        y = (draw.random(len(x)) < 1 / (1 + np.exp(-x[:, :MATTER] @ pull))).astype(int)
        parts: Any = x[:FIT], x[FIT:], y[:FIT], y[FIT:]
    else:
        load: Any = load_digits if name == "digits" else load_breast_cancer
        x, y = load(return_X_y=True)
        parts = train_test_split(x, y, test_size=0.3, random_state=split, stratify=y)
    fit, test, fit_y, test_y = parts
    scaler = StandardScaler().fit(fit)
    return scaler.transform(fit), scaler.transform(test), fit_y, test_y


def logistic(name: str, splits: int) -> dict[str, Any]:
    """Return what each method comes to, split by split."""
    rows: dict[str, dict[str, list[float]]] = {}
    made: dict[str, Any] = {}
    for split in range(splits):
        fit, test, fit_y, test_y = data(name, split)
        classes = len(np.unique(fit_y))
        models: dict[str, Any] = {BASELINE: LogisticRegressionCV(**GRID, **NEW_DEFAULTS)}
        for method, given in METHODS.items():
            if classes > 2 or method not in MANY_CLASSES:
                models[method] = RegularizedLogisticRegression(**given)
        for method, model in models.items():
            began = time.process_time()
            model.fit(fit, fit_y)
            took = time.process_time() - began
            row = rows.setdefault(method, {k: [] for k in ("loss", "accuracy", "seconds")})
            row["loss"].append(log_loss(test_y, model.predict_proba(test)))
            row["accuracy"].append(float(accuracy_score(test_y, model.predict(test))))
            row["seconds"].append(took)
            history = getattr(model, "history_", [])
            if history and model.width == math.inf:
                # Without a prior f is the folds' loss alone.
                row.setdefault("folds", []).append(history[-1].value)
        made = {"classes": classes, "fit": fit.shape, "test": len(test)}
        print(name, split, flush=True)
    return {**made, "rows": rows}


@torch.no_grad()
def judged(model: torch.nn.Module, part: Part) -> tuple[float, float]:
    """Return loss and accuracy."""
    scores = model(part[0])
    right = (scores.argmax(1) == part[1]).double().mean()
    return float(F.cross_entropy(scores, part[1])), float(right)


def refit(
    model: torch.nn.Sequential, parts: list[Part], theta: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return the layer fitted to all parts: half of each decay, as twice as many fit."""
    x = torch.cat([head_decay.features(model, images) for images, _ in parts])
    y = torch.cat([classes for _, classes in parts])

    def loss(w: dict[str, torch.Tensor]) -> torch.Tensor:
        return F.cross_entropy(x @ w["weight"].T + w["bias"], y)

    problem = Problem(
        loss,
        lambda w, t: loss(w) + (t.exp() * w["weight"].square()).sum() / 4,
        ridge=0.5e-3,
    )
    layer = {name: p.detach().double() for name, p in model[-1].named_parameters()}
    return hypergradient(problem, theta, layer, accuracy=1e-3).x


def layer(seed: int) -> dict[str, dict[str, Any]]:
    """Return test loss and accuracy with each decay, before and after the refit."""
    fit, judge, test = head_decay.parts(seed)
    model = head_decay.train(*fit, steps=300, seed=seed)
    trained = {name: p.clone() for name, p in model[-1].state_dict().items()}
    rows: dict[str, dict] = {"as trained": {"judged": judged(model, test)}, "none learned": {}}
    thetas = {"none learned": torch.full((1, 1), START, dtype=torch.float64)}
    for name, shape in head_decay.DECAYS.items():
        model[-1].load_state_dict(trained)
        result = head_decay.learn_decay(model, fit, judge, shape, steps=10)
        model[-1].load_state_dict(result.x)
        rows[name] = {"judged": judged(model, test)}
        thetas[name] = result.theta
    for name, theta in thetas.items():
        model[-1].load_state_dict(refit(model, [fit, judge], theta))
        rows[name]["refitted"] = judged(model, test)
    print("last layer", seed, flush=True)
    return rows


def command(
    splits: Annotated[int, typer.Option(min=2, max=1000, help="Splits of each data set.")] = 10,
    seeds: Annotated[int, typer.Option(min=2, max=1000, help="Networks to train.")] = 5,
) -> None:
    """Compare learned penalties with a grid search: logistic regression, and a last layer.

    Four minutes on one core; writes benchmarks/records/penalties.json.
    """
    torch.set_num_threads(1)
    content = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "scikit-learn": sklearn.__version__,
        "splits": splits,
        "rival": GRID,
        "matter": MATTER,
        "logistic": {name: logistic(name, splits) for name in DATA},
        "layer": [layer(seed) for seed in range(seeds)],
    }
    write_record("penalties", "python -m benchmarks penalties", content)
    for rows in (*logistic_tables(content["logistic"]), layer_table(content["layer"])):
        # Too wide for a terminal's table.
        print(f"\n{table(rows)}")
