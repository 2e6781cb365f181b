"""The options of `hdet federate`, and the settings they stand for.

Settings are named in words, options briefly and as papers do: --lr is the clients' rate,
--alpha the concentration of the Dirichlet split. Errors of the settings are therefore put in
terms of the options before a user reads them.
"""

from collections.abc import Mapping
from typing import Any

from hdet.errors import require

from ...core import commands as run_folders
from .flower_engine import require_flower
from .folder import Plan
from .run import Federation
from .settings import Settings

# Options, as parameters of the command, and fields of `Settings`.
FIELDS = {
    "task": "task",
    "clients": "clients",
    "per_round": "count",
    "alpha": "concentration",
    "rounds": "rounds",
    "strategy": "strategy",
    "selector": "selector",
    "lr": "local_rate",
    "server_lr": "global_rate",
    "steps": "steps",
    "batch": "batch",
    "mu": "proximal_mu",
    "momentum": "momentum",
    "seed": "seed",
    "dtype": "dtype",
    "data": "data",
}
# With 0 FedProx is FedAvg. Its authors tune mu among 0.001, 0.01, 0.1 and 1.
FEDPROX_MU = 0.1

# Where rules call an argument otherwise than `Settings` does.
_RULES = {"GlobalRate.alpha": "server_lr", "split.alpha": "alpha"}
_NAMES = {field: name for name, field in FIELDS.items()} | {"engine": "engine"}


def plan(given: Mapping[str, Any], engine: str) -> Plan:
    """Turn what the user asked for into a plan, or say what cannot be.

    Args:
        given: values by the names of `FIELDS`; a `mu` of None is the strategy's own.
        engine: one of `ENGINES`.

    Raises:
        ValueError: naming the option, the rule, the value and the remedy.
        MissingDataError: if the task's data are not there.
    """
    named = {FIELDS[name]: value for name, value in given.items()}
    if named["proximal_mu"] is None:
        named["proximal_mu"] = FEDPROX_MU if named["strategy"] == "fedprox" else 0.0
    try:
        made = Plan(Settings(**named), engine)
    except ValueError as error:
        raise ValueError(in_options(str(error))) from error
    check(made)
    return made


def check(plan: Plan) -> None:
    """Raise whatever would end the run at its start, before anything is written.

    Raises:
        ValueError: naming the option, the rule, the value and the remedy.
        MissingDataError: if the task's data are not there.
    """
    try:
        if plan.engine == "flower":
            require_flower()
        # The rest only the data and the rules know.
        images, batch = len(Federation(plan.settings).data.labels), plan.settings.batch
        rule = f"is more than all {images} images"
        require(batch <= images, "Settings", "batch", batch, rule, "take a smaller one")
    except ValueError as error:
        raise ValueError(in_options(str(error))) from error


def in_options(message: str) -> str:
    """Return an error of the settings in terms of the options, if it is one."""

    def name_of(call: str, argument: str) -> str | None:
        return _RULES.get(f"{call}.{argument}", _NAMES.get(argument))

    # The command has no gamma to widen.
    said = run_folders.in_options(message, name_of)
    return said.replace("widen gamma, or start", "start")
