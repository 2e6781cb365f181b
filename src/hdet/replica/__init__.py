"""HDET: data-parallel replicas that share gradients and differ in hyperparameters."""

from .averaging import average_ as average_
from .noise import add_noise_ as add_noise_
from .one_cycle import OneCycleAutoLR as OneCycleAutoLR
from .spread import multipliers as multipliers
