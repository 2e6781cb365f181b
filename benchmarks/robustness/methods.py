"""The methods of the robustness benchmark by name: the baselines', and ours.

Only the names and labels are here, so that tables and checks of arguments need none of
the methods' packages. The methods themselves are imported when they are asked for.
"""

from .problems import Method

# What every regret is measured against, and what the sweep for it runs.
PLAIN = "ddp"
# The method that this library puts forward; tables and figures emphasise it.
OURS = "hdet"
# In the order of the tables.
LABELS: dict[str, str] = {
    "hdet": "hdet",
    "paper-0.1": "HDET paper, sigma 0.1",
    "paper-0.002": "HDET paper, sigma 0.002",
    "ddp": "plain DDP",
    "reduce-on-plateau": "ReduceLROnPlateau",
    "greedylr": "GreedyLR",
    "hypergradient": "hypergradient",
    "pbt": "population-based",
    "schedule-free": "schedule-free",
    "prodigy": "Prodigy",
    "d-adaptation": "D-Adaptation",
}
# These find their step size without looking at the initial rate: one run per seed stands
# for all starts.
START_FREE = frozenset({"prodigy", "d-adaptation"})


def all_methods() -> dict[str, Method]:
    """Return every method by its name, in the order of the tables."""
    from .baselines import BASELINES as baselines
    from .ours import OURS as ours

    found = {**baselines, **ours}
    return {name: found[name] for name in LABELS if name in found}
