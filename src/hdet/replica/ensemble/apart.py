"""Replicas that train alone for a while: each on its own gradient, and then as one again.

From equal weights each replica takes steps of its own, at a rate of its own. A step, and what
it does to the next, can then be compared between rates as in whole runs. At the end all go back
to where they began, or all go on from one of them.

`DistributedDataParallel` shares gradients in the backward pass of a forward pass that began
with `require_backward_grad_sync`; that is all that its `no_sync` sets. Here a hook lowers that
flag for the time of each forward pass alone. So a loop may set it itself, or use `no_sync`, to
accumulate gradients, and finds it as it left it. The same hook keeps the buffers from being
sent, and both are as before when the replicas have met again. Then DDP is also made to forget
which parameters were used meanwhile: it fails where one of them has no gradient next.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from ...state import Entries
from .contents import dtensors
from .groups import Replicas, group_ranks
from .training_state import Point, TrainingState

# Who keeps the gradients of a wrapper apart now.
_holders: "weakref.WeakKeyDictionary[nn.Module, weakref.ref[Apart]]"
_holders = weakref.WeakKeyDictionary()


class Apart:
    """Lets replicas part, and meet.

    Where they part is the same step on every rank, with equal weights and optimizer state, and
    between an optimizer's step and the next forward pass: as in a scheduler's `step`. While
    apart, what the loop keeps beside the optimizer and the model's buffers goes on: its own
    averages of the weights are not put back, and a GradScaler's scale differs between replicas
    from the first overflow on.

    One that is made for a model whose replicas another has left apart, as where a stage of
    training has ended, ends that other: all go back to where they parted.

    Args:
        optimizer: the one optimizer that trains the model; any.
        model: the `DistributedDataParallel`, or what contains it, compiled or not.
        replicas: those that part.
    """

    def __init__(
        self, optimizer: Optimizer, model: nn.Module | None, replicas: Replicas
    ) -> None:
        self._optimizer = optimizer
        self._model = model
        self._replicas = replicas
        self._state = TrainingState(optimizer, model)
        self._began: Point | None = None
        self._handles: list[RemovableHandle] = []
        self._flags: list[tuple[bool, bool]] = []
        for ddp in self._wrappers():
            holder = _holders[ddp]() if ddp in _holders else None
            if holder is not None:
                holder.end(None)

    @property
    def apart(self) -> bool:
        """Whether the replicas train alone now."""
        return self._began is not None

    def reason(self) -> str | None:
        """Return why these replicas cannot train alone, with a remedy; None if they can. Local.

        The same on every rank. It goes by what there is now: ask again where layers may have
        been frozen since.
        """
        trained = {p for g in self._optimizer.param_groups for p in g["params"]}
        trained = {p for p in trained if p.requires_grad}
        if self._replicas.inner or dtensors([*trained]):
            return (
                "a replica is several processes, whose gradients are reduced with those of the "
                "other replicas: train with DistributedDataParallel"
            )
        wrappers = list(self._wrappers())
        if not wrappers:
            return (
                "there is no DistributedDataParallel in `model` whose gradients could be kept "
                "apart: give the wrapper itself, `model=ddp`"
            )
        unfit = next(filter(None, map(self._unfit, wrappers)), None)
        if unfit is not None:
            return unfit
        shared = {
            p
            for ddp in wrappers
            for name, p in ddp.module.named_parameters()
            if p.requires_grad and name not in ddp.parameters_to_ignore
        }
        if trained - shared:
            return (
                "the optimizer trains parameters whose gradients DistributedDataParallel does "
                "not share: wrap a module that contains them all"
            )
        if shared - trained:
            return (
                "the model has trainable parameters that this optimizer does not have, and "
                "that another would train apart: give all to one optimizer, or freeze them"
            )
        return None

    def begin(self) -> None:
        """Part: keep a copy of weights, buffers and optimizer state, share no gradients. Local.

        Until `end` it takes that much memory, on the same devices.
        """
        assert not self.apart, "end the one before"
        self._part(self._state.copied())

    def end(self, winner: int | None = None) -> None:
        """Meet: share gradients from the next forward pass on. Local without a winner.

        Gradients that are still there from the last backward pass remain one replica's own:
        clear them before the next.

        Args:
            winner: the replica that all go on from, bit for bit, which is collective; None to
                go back to where they parted, bit for bit.
        """
        began = self._began
        assert began is not None, "begin first"
        self._meet()
        if winner is None:
            self._state.put_back(began)
        else:
            self._state.take_from(winner, self._replicas)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Go back to where they parted for a block, and then on, both bit for bit.

        Local. Takes one more copy meanwhile.
        """
        began, own = self._began, self._state.copied()
        assert began is not None, "begin first"
        self._meet()
        self._state.put_back(began)
        try:
            yield
        finally:
            began = self._state.copied()
            self._state.put_back(own)
            self._part(began)

    def _unfit(self, ddp: DistributedDataParallel) -> str | None:
        """Return why the gradients of a wrapper cannot be kept apart."""
        groups = (ddp.process_group, self._replicas.group)
        mine, theirs = (set(group_ranks(group)) for group in groups)
        if mine != theirs:
            return (
                "DistributedDataParallel shares gradients with other processes than the "
                "replicas: give both the same `process_group`"
            )
        if ddp.mixed_precision is not None:
            return (
                "DistributedDataParallel's `mixed_precision` converts gradients where it "
                "shares them: use torch.autocast"
            )
        if ddp.static_graph:
            return (
                "with `static_graph=True` DistributedDataParallel has to share the first "
                "gradients of a process, resumed ones too: leave it out, and where it was "
                "for activation checkpoints use `use_reentrant=False`"
            )
        if getattr(ddp, "_use_python_reducer", False):
            return (
                "gradients are shared by compiled code: leave "
                "`torch._dynamo.config.optimize_ddp` at its default"
            )
        return None

    def _part(self, began: Point) -> None:
        self._began = began
        for ddp in self._wrappers():
            _holders[ddp] = weakref.ref(self)
            self._handles += [
                ddp.register_forward_pre_hook(self._lower),
                ddp.register_forward_hook(self._raise, always_call=True),
            ]

    def _meet(self) -> None:
        for ddp in self._wrappers() if self.apart else ():
            _holders.pop(ddp, None)
            if ddp.find_unused_parameters:
                ddp.reducer._reset_state()
        self._began = None
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _lower(self, ddp: Any, _inputs: Any) -> None:
        self._flags.append((ddp.require_backward_grad_sync, ddp.require_forward_param_sync))
        ddp.require_backward_grad_sync = ddp.require_forward_param_sync = False

    def _raise(self, ddp: Any, _inputs: Any, _outputs: Any) -> None:
        ddp.require_backward_grad_sync, ddp.require_forward_param_sync = self._flags.pop()

    def _wrappers(self) -> Iterator[DistributedDataParallel]:
        for module in self._model.modules() if self._model is not None else ():
            if isinstance(module, DistributedDataParallel):
                yield module

    # --- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Return where the replicas parted, if they are apart, as plain tensors. Local.

        Each rank has to save its own weights and optimizer state beside it.
        """
        return {"began": None if self._began is None else self._state.state_dict(self._began)}

    def parsed(self, entries: Entries) -> Point | None:
        """Return what `assign` takes. Changes nothing; raises a `ValueError` if damaged."""
        if entries.raw("began") is None:
            return None
        return self._state.parsed(entries.entries("began"))

    def assign(self, parsed: Point | None) -> None:
        """Go on from what `parsed` returned, apart or not; the weights are loaded by others."""
        self._meet()
        if parsed is not None:
            self._part(parsed)
