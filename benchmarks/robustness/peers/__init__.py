"""The peers: what else finds or moves a learning rate, or does without one.

Each is set as its authors and users set it, by its own package where it has one, and trains one
model on the global batch, which is what plain DDP computes (the members of a population have a
replica's batch each). Those that need a start take `lr` for it; those of `methods.START_FREE`
ask for none, and end the same for each start. The packages are the extra `peers`; they are
imported when a method that needs one begins.
"""

from functools import partial

from ..loop import plain
from ..problems import Method
from .averages import prodigy_schedule_free, schedule_free, schedule_free_plus
from .controls import budget_sweep, calibrated
from .curvature import cdat
from .distances import d_adaptation, dog, mechanic, prodigy
from .losses import momo
from .population import pbt
from .range_test import lr_finder
from .schedules import greedy, hypergradient, reduce_on_plateau
from .velocity import adalrs

BELOW = 0.03  # of the start, where hypergradient descent from below begins

PEERS: dict[str, Method] = {
    "ddp": plain,
    "calibrated": calibrated,
    "budget-sweep": budget_sweep,
    "lr-finder": lr_finder,
    "reduce-on-plateau": reduce_on_plateau,
    "greedylr": greedy,
    "adalrs": adalrs,
    "hypergradient": hypergradient,
    "hypergradient-below": partial(hypergradient, first=BELOW),
    "cdat": cdat,
    "pbt": pbt,
    "momo": momo,
    "schedule-free": schedule_free,
    "schedule-free-plus": schedule_free_plus,
    "prodigy-schedule-free": prodigy_schedule_free,
    "prodigy": prodigy,
    "d-adaptation": d_adaptation,
    "dog": dog,
    "mechanic": mechanic,
}
