"""`Explorer.metrics()` as finite floats with names like `hdet/lr/base`, for trackers.

Trackers draw one curve for each name, and panels by what is before a slash. So the replicas'
values stand beside the base value, under the same beginning.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

_COUNTS = ("step", "syncs", "rollbacks", "exclusions", "new_levels", "sync_ms", "probe_ms")
_BY_REPLICA = {"losses": "loss", "probes": "probe", "divergence": "divergence"}
_BY_NAME = ("slope", "t", "confidence")


def flat_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return what is finite of `metrics`, by flat names. Pure.

    Learning rates are those in effect, `hdet/lr/base` and `hdet/lr/replica/3`; the learned
    factor on the schedule is `hdet/lr_factor/base`. With several parameter groups their index
    follows the hyperparameter's name: `hdet/lr/1/base`.
    """
    found: dict[str, Any] = {f"hdet/{key}": metrics.get(key) for key in _COUNTS}
    groups = len(metrics["base_lr"])
    for g, base in enumerate(metrics["base_lr"]):
        found |= _of_each(_short(f"lr/{g}", groups), base, metrics["replica_lr"][g])
    for name, base in metrics["values"].items():
        if name.startswith("lr/"):
            found[f"hdet/{_short(name.replace('lr', 'lr_factor', 1), groups)}/base"] = base
        else:
            found |= _of_each(_short(name, groups), base, metrics["replica_values"][name])
    for key, name in _BY_REPLICA.items():
        found |= {f"hdet/{name}/replica/{r}": x for r, x in enumerate(metrics.get(key, []))}
    for key in _BY_NAME:
        rows = metrics.get(key, {}).items()
        found |= {f"hdet/{key}/{_short(name, groups)}": x for name, x in rows}
    return {name: float(x) for name, x in found.items() if x is not None and math.isfinite(x)}


def _short(name: str, groups: int) -> str:
    """Return a hyperparameter's name without the index of the only parameter group."""
    return name.removesuffix("/0") if groups == 1 else name


def _of_each(name: str, base: float, replicas: Sequence[float]) -> dict[str, float]:
    rows = {f"hdet/{name}/replica/{r}": value for r, value in enumerate(replicas)}
    return {f"hdet/{name}/base": base, **rows}
