"""`python -m benchmarks STUDY`: run a study, and keep its numbers."""

import typer

from .bilevel.command import bilevel
from .compare.command import compare
from .federated.command import federated
from .robustness.command import robustness

app = typer.Typer(
    help="The studies behind every figure that the documentation gives.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for study in (compare, robustness, federated, bilevel):
    app.command()(study)

if __name__ == "__main__":
    app(prog_name="python -m benchmarks")
