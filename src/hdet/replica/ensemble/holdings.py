"""Which tensors an ensemble averages: always those of its optimizer, others where they differ.

Several ensembles may hold parts of one model: each leaves to the others what is theirs.
"""

import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ...errors import where
from .meshes import refuse_fsdp1
from .optimizer_state import all_state, weight_dependent_state
from .outsiders import Named, model_outsiders


class Holdings:
    """The tensors of one ensemble; the arguments are those of `Ensemble`."""

    def __init__(
        self, optimizer: Optimizer, model: nn.Module | None, average_state: bool
    ) -> None:
        self._optimizer = optimizer
        self._model = model
        self._follow = all_state if average_state else weight_dependent_state
        self._made_for = [weakref.ref(p) for p in self.parameters()]

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs; weak references cannot be pickled."""
        return {**vars(self), "_made_for": []}

    def appear(self) -> None:
        """Let the others know that these are averaged here."""
        _averaged.add(self)

    def require_parameters(self, call: str) -> None:
        """Raise a `ValueError` if the parameters have been sharded since. Local.

        FSDP1 does it in place; FSDP2, ZeRO and Accelerate's `prepare()` give the optimizer
        others. The ranks are then no replicas, or others than they were.
        """
        refuse_fsdp1(self.parameters(), call)
        then, now = {id(p()) for p in self._made_for}, {id(p) for p in self.parameters()}
        if then and not then & now:
            raise ValueError(
                f"{where()}`{call}` was made before the optimizer got other parameters, as "
                f"FSDP2, DeepSpeed and Accelerate's `prepare()` give it: make it after that."
            )

    def parameters(self) -> list[Tensor]:
        """Return the optimizer's parameters."""
        return [p for group in self._optimizer.param_groups for p in group["params"]]

    def device(self) -> torch.device:
        """Return where the collectives run."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    def insiders(self) -> Iterator[Tensor]:
        """Return what is always averaged: the weights that are trained, and their state."""
        yield from (p for p in self.parameters() if p.requires_grad)
        yield from self._follow(self._optimizer)

    def outsiders(self) -> Iterator[Named]:
        """Return what is averaged where it differs between the replicas."""
        parameters = self.parameters()
        for index, parameter in enumerate(parameters):
            if not parameter.requires_grad:
                yield f"optimizer's {index}", parameter, True
        if self._model is not None:
            others = {id(p) for h in _averaged if h is not self for p in h.parameters()}
            own = set(map(id, parameters))
            yield from model_outsiders(self._model, own, others - own)


# Those whose replicas part and meet.
_averaged: "weakref.WeakSet[Holdings]" = weakref.WeakSet()
