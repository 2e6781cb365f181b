"""Hyperparameters that tune themselves while the model trains.

Importing this loads torch and nothing heavier.
"""

from importlib.metadata import version

from . import replica as replica
from .replica import OneCycleAutoLR as OneCycleAutoLR
from .replica import add_noise_ as add_noise_
from .replica import average_ as average_
from .replica import multipliers as multipliers

__version__ = version("hdet")
