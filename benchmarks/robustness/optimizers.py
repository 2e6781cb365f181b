"""Two base optimizers that are not one class of torch's: Muon with AdamW, and Schedule-Free.

Muon orthogonalises the updates of hidden matrices; the other parameters need another optimizer
(Jordan et al., "Muon: An Optimizer for Hidden Layers in Neural Networks", 2024). With updates
scaled to the root mean square of AdamW's, both take the same rate and weight decay (Liu et al.,
"Muon is Scalable for LLM Training", arXiv 2502.16982, equation (4)).
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch.optim import AdamW, Muon, Optimizer


class MuonAdamW(Optimizer):
    """Muon for the parameter group `hidden`, AdamW for all others, as one optimizer."""

    def __init__(self, groups: Iterable[dict], lr: float, weight_decay: float) -> None:
        """Take groups with names, as `problems.parameter_groups` gives them.

        Args:
            groups: parameter groups; that with the name `hidden` has matrices only.
            lr: the rate of both.
            weight_decay: of both, decoupled.
        """
        parts = [dict(group) for group in groups]
        hidden = [group for group in parts if group["name"] == "hidden"]
        others = [group for group in parts if group["name"] != "hidden"]
        both = {"lr": lr, "weight_decay": weight_decay}
        muon = Muon(hidden, **both, adjust_lr_fn="match_rms_adamw")
        self._inner: list[Optimizer] = [muon, AdamW(others, **both, fused=True)]
        super().__init__([g for inner in self._inner for g in inner.param_groups], both)
        self._share()

    def _share(self) -> None:
        """Let the two work on the groups and the state that the outside sees."""
        for inner, hidden in zip(self._inner, (True, False), strict=True):
            inner.state = self.state
            groups = [g for g in self.param_groups if (g["name"] == "hidden") == hidden]
            inner.param_groups = groups

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take one step of both."""
        del closure
        for inner in self._inner:
            inner.step()


def schedule_free(groups: Iterable[dict], lr: float, weight_decay: float) -> Optimizer:
    """Return schedule-free AdamW, ready to train; the warm-up is the schedule's."""
    try:
        import schedulefree
    except ImportError as error:
        raise ImportError(
            "this problem needs the package `schedulefree`: pip install --editable benchmarks"
        ) from error
    optimizer: Any = schedulefree.AdamWScheduleFree(groups, lr=lr, weight_decay=weight_decay)
    optimizer.train()
    return optimizer
