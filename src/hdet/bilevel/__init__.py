"""Any number of hyperparameters, by implicit differentiation that is as exact as it must be.

A lower level trains a model, and an upper level measures how good it is. `maid` moves the
hyperparameters down the hypergradient, and solves the lower level only as exactly as needed.
"""

from typing import TYPE_CHECKING

from .baselines import fixed_accuracy as fixed_accuracy
from .baselines import hoag as hoag
from .denoising import FieldsOfExperts as FieldsOfExperts
from .denoising import TVDenoiser as TVDenoiser
from .denoising import field_start as field_start
from .denoising import fields_of_experts as fields_of_experts
from .denoising import psnr as psnr
from .denoising import smoothed_tv as smoothed_tv
from .derivative_free import dfo_ls as dfo_ls
from .derivative_free import finite_differences as finite_differences
from .hypergradient import Hypergradient as Hypergradient
from .hypergradient import hypergradient as hypergradient
from .linear import CurvatureError as CurvatureError
from .maid import maid as maid
from .oracle import Counts as Counts
from .oracle import NonFiniteError as NonFiniteError
from .problem import Problem as Problem
from .result import Result as Result
from .result import Status as Status
from .result import Step as Step
from .rules import Rules as Rules

if TYPE_CHECKING:
    from .logistic import RegularizedLogisticRegression as RegularizedLogisticRegression


def __getattr__(name: str) -> object:
    # It loads scikit-learn, and `import hdet` must not.
    if name == "RegularizedLogisticRegression":
        from .logistic import RegularizedLogisticRegression

        return RegularizedLogisticRegression
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
