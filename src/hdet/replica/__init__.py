"""HDET: data-parallel replicas that share gradients and differ in hyperparameters.

Importing this loads nothing: a name is loaded when it is first used. So what decides, which is
arithmetic on plain numbers, can be used where torch is not installed.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_WHERE = {
    "Explorer": "explorer.explorer",
    "OneCycleAutoLR": "paper.one_cycle",
    "SearchConfig": "explorer.config",
    "add_noise_": "ensemble.noise",
    "attribute": "explorer.hyperparameters",
    "average_": "ensemble.averaging",
    "betas": "explorer.hyperparameters",
    "finite_mean_hook": "ensemble.gradient_hook",
    "lr": "explorer.hyperparameters",
    "multipliers": "paper.fan_out",
    "probe": "explorer.probe",
    "weight_decay": "explorer.hyperparameters",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(import_module(f".{_WHERE[name]}", __name__), name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "torch":
            raise
        raise ModuleNotFoundError(
            f"`hdet.{name}` needs PyTorch: pip install torch. In JAX use "
            f"hdet.integrations.optax, which does not.",
            name="torch",
        ) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
