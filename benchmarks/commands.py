"""The commands behind `python -m benchmarks`, one for each study, and `pages`."""

from typing import Annotated

import typer

from .averaging.study import command as averaging
from .bilevel.command import bilevel
from .bilevel_speed.study import command as bilevel_speed
from .compare.command import compare
from .converging.study import command as converging
from .core.page import PAGES, write
from .cost.study import command as cost
from .federated.command import federated
from .figures.command import command as figures
from .overhead.study import command as overhead
from .penalties.study import command as penalties
from .rate_rules.study import command as rate_rules
from .remedies.study import command as remedies
from .robustness.command import robustness
from .scale.study import command as scale
from .selection_scale.study import command as selection_scale
from .soak.study import command as soak

app = typer.Typer(
    help="The studies behind every figure that the documentation gives.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for study in (compare, robustness, federated, bilevel):
    app.command()(study)
for name, study in {
    "averaging": averaging,
    "bilevel-speed": bilevel_speed,
    "converging": converging,
    "cost": cost,
    "figures": figures,
    "overhead": overhead,
    "penalties": penalties,
    "rate-rules": rate_rules,
    "remedies": remedies,
    "scale": scale,
    "selection-scale": selection_scale,
    "soak": soak,
}.items():
    app.command(name)(study)


@app.command()
def pages(
    studies: Annotated[
        list[str] | None, typer.Argument(help=f"Some of {', '.join(PAGES)}; default all.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only compare; write nothing.")
    ] = False,
) -> None:
    """Write the pages of docs/results/ from the records."""
    if unknown := [name for name in studies or [] if name not in PAGES]:
        raise typer.BadParameter(f"{', '.join(unknown)}: choose from {', '.join(PAGES)}.")
    different = write(studies or list(PAGES), check)
    for name in different:
        print(f"docs/results/{name} {'is not what its record gives' if check else 'written'}")
    raise typer.Exit(int(check and bool(different)))
