"""What an optimizer has to forget when the weights go back to a point of a climb.

While a rate is still tiny the first, large gradients fill Adam's second moments, and with a
beta2 of 0.999 they keep the effective rate too low and distorted for hundreds of steps after.
So at a roll-back, and where the warm-up to the rate found begins, those that divide by such
moments begin anew. It has to be all of their state:
one `step` corrects the bias of both moments. With v cleared and `step` kept, v stands for
(1 - beta2) g^2 and is taken for g^2, and the first update is thirty times too long; with v and
`step` cleared and m kept, the old m is divided by 1 - beta1 and counts nine times. m remembers
ten steps only, taken beyond the point that is gone back to: nothing is lost with it.

Momentum that is no part of such a pair stays (SGD, Muon, Lion): it is in the gradient's units,
whatever the rate was. But where a gradient that was not finite has ended the climb, momentum
would hold on to it, and so whatever is not finite begins at zero. Copies of the weights follow
the weights.
"""

import torch
from torch import Tensor
from torch.optim import Optimizer

from .optimizer_state import COPIES_OF_WEIGHTS, GROUP_COUNTERS, first_value, reset_counters

# Names that torch and the packages of Schedule-Free, Prodigy, D-Adaptation, timm and
# transformers give to what an update is divided by, and to what goes with it.
_SECOND = (
    "exp_avg_sq",
    "max_exp_avg_sq",
    "exp_inf",
    "square_avg",
    "sum",
    "row_var",
    "col_var",
    "variance",
    "exp_avg_sq_row",
    "exp_avg_sq_col",
)
_FIRST = ("exp_avg", "exp_avg_diff", "momentum_buffer", "grad_avg", "acc_delta", "mu_product")


@torch.no_grad()
def restart_moments(optimizer: Optimizer) -> None:
    """Begin the moments anew where there are second ones, in place. Local.

    Clears both moments and `step` of each parameter that has second moments, with what its
    group counts; sets copies of the weights (Schedule-Free's `z`, `master_param`) to the
    weights. All other state stays as it is, also that of optimizers with names of their own,
    but tensors that are not all finite are set to zero.

    Args:
        optimizer: any optimizer, after its parameters were set back.
    """
    for group in optimizer.param_groups:
        restarted = [_restart(p, optimizer.state.get(p, {}), group) for p in group["params"]]
        if not any(restarted):
            continue
        group |= {key: value for key, value in GROUP_COUNTERS.items() if key in group}
        step = group.get("step")
        if isinstance(step, Tensor):
            step.zero_()
        reset_counters(group)


def _restart(parameter: Tensor, state: dict, group: dict) -> bool:
    """Begin one parameter's state anew; return whether it had anything to begin."""
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    copies = [tensors[key] for key in COPIES_OF_WEIGHTS if key in tensors]
    for copy in copies:
        copy.copy_(parameter)
    for tensor in tensors.values():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            tensor.zero_()
    second = any(key in tensors for key in _SECOND)
    if second:
        for key in {*_SECOND, *_FIRST, "step"} & tensors.keys():
            tensors[key].fill_(first_value(key, group))
        reset_counters(state)
    return second or bool(copies)
