"""HDET: data-parallel replicas that share gradients and differ in hyperparameters."""

from .averaging import average_ as average_
from .explorer import Explorer as Explorer
from .gradient_hook import finite_mean_hook as finite_mean_hook
from .hyperparameters import attribute as attribute
from .hyperparameters import betas as betas
from .hyperparameters import lr as lr
from .hyperparameters import weight_decay as weight_decay
from .noise import add_noise_ as add_noise_
from .one_cycle import OneCycleAutoLR as OneCycleAutoLR
from .probe import probe as probe
from .spread import multipliers as multipliers
