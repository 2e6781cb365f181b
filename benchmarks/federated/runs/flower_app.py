"""The Flower app of a run, written into its folder.

The idea: what `--engine flower` runs is the app that a user would write for it, made of the
parts that hdet has for Flower, with the names and numbers of this run in it. It stays in the
folder, to be read, run again, or taken as the beginning of another app.
"""

import json
from dataclasses import fields
from pathlib import Path

import jinja2

from ...core.files import write_whole
from .settings import DELTA_SGD_RATE, Settings

# Flower's own strategies, the counterparts of `hdet.federated.server_optimizers` with the
# factors of `settings.STRATEGIES`; all others aggregate by FedAvg.
_INNER = {
    "fedprox": "FedProx(proximal_mu=SETTINGS.proximal_mu, **few)",
    "fedavgm": "FedAvgM(server_learning_rate=SETTINGS.global_rate, server_momentum=0.9, **few)",
    "fedadam": "FedAdam(eta=0.1 * SETTINGS.global_rate, **few)",
    "fedadagrad": "FedAdagrad(eta=0.1 * SETTINGS.global_rate, **few)",
    "fedyogi": "FedYogi(eta=0.01 * SETTINGS.global_rate, **few)",
}
_OUTER = {
    "fedexp": "FedExP(selecting)",
    "decay-g": 'Decay(selecting, SETTINGS.global_rate, of="global")',
    "decay-sl": "Decay(selecting, SETTINGS.local_rate)",
}
# Those that hold the server's rate; where that is 1, there is nothing to hold.
_HELD = ("fedavg", "fedprox", "decay-sl", "delta-sgd", "delta-sgd-paper")
_HOLD = 'Decay(strategy, SETTINGS.global_rate, factor=1.0, of="global")'
_FEDHYPER = """FedHyper(
        selecting,
        mode="{mode}",
        alpha=SETTINGS.global_rate,
        beta=SETTINGS.local_rate,{more}
    )"""
# The equations as they are printed, but for SL's step, which is that of the authors' code.
_PAPER = """
        g_step="absolute",
        sl_step="relative",
        growth=float("inf"),"""


def write_app(folder: Path, settings: Settings) -> None:
    """Write the app of a run.

    Args:
        folder: where to; made if it is not there. Files of the app that are there already
            are written anew.
        settings: the run.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("benchmarks", "templates/federate_app"),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    inner, outer = strategies(settings)
    given = {f.name: getattr(settings, f.name) for f in fields(settings)}
    values = {
        "settings": settings,
        "fields": {n: json.dumps(v) if isinstance(v, str) else v for n, v in given.items()},
        "delta_sgd": settings.strategy.startswith("delta-sgd"),
        "rate": DELTA_SGD_RATE
        if settings.strategy == "delta-sgd-paper"
        else "SETTINGS.local_rate",
        "inner": inner,
        "outer": outer,
        "inner_class": inner.partition("(")[0],
        "outer_classes": [
            name for name in ("Decay", "FedExP", "FedHyper") if name in "".join(outer)
        ],
    }
    for name in environment.list_templates(extensions=["j2"]):
        page = environment.get_template(name).render(values)
        write_whole(folder / name.removesuffix(".j2"), page)


def strategies(settings: Settings) -> tuple[str, list[str]]:
    """Return what a run is made of on Flower, as Python expressions.

    Returns:
        The strategy within `selecting`, and those around it, from the inside out: the first
        of them names `selecting`, the others `strategy`.
    """
    name = settings.strategy
    inner = _INNER.get(name, "FedAvg(**few)")
    outer = [_OUTER.get(name, "selecting")]
    if name.startswith("fedhyper"):
        mode = name.removesuffix("-paper").partition("-")[2] or "g+sl+cl"
        more = _PAPER if name.endswith("-paper") else ""
        outer = [_FEDHYPER.format(mode=mode, more=more)]
    if name in _HELD and settings.global_rate != 1.0:
        outer.append(_HOLD)
    return inner, outer
