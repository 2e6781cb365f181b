"""What the tests of torchtitan start on each rank: it is imported there alone.

Importing torchtitan takes seconds, warns of much, and takes "cuda" for its device.
"""

import warnings
from typing import Any

STEPS, SYNC, SAVED = 16, 4, 10  # optimizer steps of a run, between syncs, to a checkpoint


def all_runs(folder: str, names: list[str], seed: str | None = None) -> dict[str, Any]:
    """Do the runs of these names in `titan_runs`; `seed` is a checkpoint for some of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tests.integrations import titan_runs

        return titan_runs.all_runs(folder, names, seed)
