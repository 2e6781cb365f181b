"""The command `python -m benchmarks bilevel-speed`."""

from typing import Annotated

import typer


def bilevel_speed(
    # Fewer rounds would say nothing of their spread.
    rounds: Annotated[int, typer.Option(min=5, max=1000, help="Alternating rounds.")] = 7,
    budget: Annotated[
        int, typer.Option(min=100, max=10**6, help="Cost of a run, which sets its steps.")
    ] = 1000,
) -> None:
    """Time an outer step of MAID, beside the same algorithm in plain NumPy and SciPy.

    Minutes on one core; writes benchmarks/records/bilevel_speed.json.
    """
    # The problems' packages are slow to import, and --help needs none of them.
    from .study import measure_all

    measure_all(rounds, budget)
