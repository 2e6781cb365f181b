"""Solvers of the lower level, by name; any function of their signature will do as well."""

from .accelerated import accelerated_gradient as accelerated_gradient
from .lbfgs import lbfgs as lbfgs
from .newton import newton_cg as newton_cg
from .solution import Solution as Solution
from .solution import Solver as Solver

SOLVERS: dict[str, Solver] = {
    "newton-cg": newton_cg,
    "lbfgs": lbfgs,
    "accelerated-gradient": accelerated_gradient,
}
