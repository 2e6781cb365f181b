"""HDET: data-parallel replicas that share gradients and differ in hyperparameters."""

from .ensemble.averaging import average_ as average_
from .ensemble.gradient_hook import finite_mean_hook as finite_mean_hook
from .ensemble.noise import add_noise_ as add_noise_
from .explorer.config import SearchConfig as SearchConfig
from .explorer.explorer import Explorer as Explorer
from .explorer.hyperparameters import attribute as attribute
from .explorer.hyperparameters import betas as betas
from .explorer.hyperparameters import lr as lr
from .explorer.hyperparameters import weight_decay as weight_decay
from .explorer.probe import probe as probe
from .paper.fan_out import multipliers as multipliers
from .paper.one_cycle import OneCycleAutoLR as OneCycleAutoLR
