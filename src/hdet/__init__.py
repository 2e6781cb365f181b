"""Hyperparameters that tune themselves while the model trains.

Importing this loads nothing: torch loads when a name is first used. So the `hdet` command
responds to Ctrl-C at once, and not only after the seconds that torch takes.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import bilevel as bilevel
    from . import federated as federated
    from . import replica as replica
    from .replica import Explorer as Explorer
    from .replica import OneCycleAutoLR as OneCycleAutoLR
    from .replica import SearchConfig as SearchConfig
    from .replica import add_noise_ as add_noise_
    from .replica import attribute as attribute
    from .replica import average_ as average_
    from .replica import betas as betas
    from .replica import finite_mean_hook as finite_mean_hook
    from .replica import lr as lr
    from .replica import multipliers as multipliers
    from .replica import probe as probe
    from .replica import weight_decay as weight_decay

    __version__: str

__all__ = [
    "Explorer",
    "OneCycleAutoLR",
    "SearchConfig",
    "__version__",
    "add_noise_",
    "attribute",
    "average_",
    "betas",
    "bilevel",
    "federated",
    "finite_mean_hook",
    "lr",
    "multipliers",
    "probe",
    "replica",
    "weight_decay",
]


def __getattr__(name: str) -> Any:
    if name in ("bilevel", "federated", "replica"):
        return import_module(f".{name}", __name__)
    if name == "__version__":
        from importlib.metadata import version

        value = version("hdet")
    elif name in __all__:
        value = getattr(import_module(".replica", __name__), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
