"""Hyperparameters that tune themselves while the model trains.

Importing this loads torch and nothing heavier.
"""

from importlib.metadata import version

from . import bilevel as bilevel
from . import federated as federated
from . import replica as replica
from .replica import Explorer as Explorer
from .replica import OneCycleAutoLR as OneCycleAutoLR
from .replica import add_noise_ as add_noise_
from .replica import attribute as attribute
from .replica import average_ as average_
from .replica import betas as betas
from .replica import finite_mean_hook as finite_mean_hook
from .replica import lr as lr
from .replica import multipliers as multipliers
from .replica import probe as probe
from .replica import weight_decay as weight_decay

__version__ = version("hdet")
