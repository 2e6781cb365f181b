"""The command `python -m benchmarks penalties`."""

from typing import Annotated

import typer


def penalties(
    splits: Annotated[int, typer.Option(min=2, max=1000, help="Splits of each data set.")] = 10,
    seeds: Annotated[int, typer.Option(min=2, max=1000, help="Networks to train.")] = 5,
) -> None:
    """Compare learned penalties with a grid search: logistic regression, and a last layer.

    Four minutes on one core; writes benchmarks/records/penalties.json.
    """
    # scikit-learn is slow to import, and --help needs none of it.
    from .study import measure

    measure(splits, seeds)
