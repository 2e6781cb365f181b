"""The methods of the robustness benchmark by name: the peers', and ours.

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
    "calibrated": "one calibrated rate",
    "budget-sweep": "sweep at the same budget",
    "lr-finder": "range test",
    "reduce-on-plateau": "ReduceLROnPlateau",
    "greedylr": "GreedyLR",
    "adalrs": "AdaLRS",
    "hypergradient": "hypergradient",
    "hypergradient-below": "hypergradient from below",
    "cdat": "CDAT",
    "pbt": "population-based",
    "momo": "MoMo",
    "schedule-free": "schedule-free",
    "schedule-free-plus": "ScheduleFree+",
    "prodigy-schedule-free": "Prodigy, schedule-free",
    "prodigy": "Prodigy",
    "d-adaptation": "D-Adaptation",
    "dog": "DoG",
    "mechanic": "Mechanic",
}
# These find their step size without looking at the initial rate: one run per seed stands
# for all starts.
START_FREE = frozenset(
    {
        "calibrated",
        "lr-finder",
        "cdat",
        "schedule-free-plus",
        "prodigy-schedule-free",
        "prodigy",
        "d-adaptation",
        "dog",
        "mechanic",
    }
)
# The peers' own packages, whose versions a result depends on as well.
PACKAGES = (
    "prodigyopt",
    "prodigy-plus-schedule-free",
    "schedulefree",
    "mechanic-pytorch",
    "dadaptation",
    "dog-optimizer",
    "momo-opt",
    "torch-lr-finder",
)


def all_methods() -> dict[str, Method]:
    """Return every method by its name, in the order of the tables."""
    from .ours import OURS as ours
    from .peers import PEERS

    found = {**PEERS, **ours}
    return {name: found[name] for name in LABELS if name in found}
