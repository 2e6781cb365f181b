"""All that optimizer steps change: copied, put back to the last bit, or taken from a replica.

    weights         the parameters that are trained
    buffers         those of the model, integers too
    state           whatever the optimizer keeps, nested or not, tensors and plain numbers
    counters        what some optimizers count in their parameter groups

Everything is written in the memory that is there, where it fits: CUDA graphs and compiled code
rely on it. What has come up since a copy was made is removed, so that an optimizer begins its
state again as it did the first time. Rates and other settings in the groups are left alone:
schedulers set them.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from ...state import Entries
from .groups import Replicas
from .optimizer_state import GROUP_COUNTERS

# Schedule-Free also notes which of its two points the weights are at, and its last rate.
_COUNTERS = (*GROUP_COUNTERS, "step", "train_mode", "scheduled_lr")


@dataclass(frozen=True)
class Point:
    """A copy.

    Attributes:
        parameters: each trained parameter, and its values.
        buffers: where each is, by module and name, and its values.
        state: the optimizer's of each of its parameters; None where there is none yet.
        shared: the optimizer's that is no parameter's, by name.
        counters: those of each parameter group.
    """

    parameters: list[tuple[Tensor, Tensor]]
    buffers: list[tuple[nn.Module, str, Tensor]]
    state: list[Any]
    shared: dict[Any, Any]
    counters: list[dict[str, Any]]


class TrainingState:
    """What steps change of an optimizer and a model.

    Args:
        optimizer: any, whose parameters are not sharded.
        model: whose buffers go along; None for none.
    """

    def __init__(self, optimizer: Optimizer, model: nn.Module | None) -> None:
        self._optimizer = optimizer
        self._model = model

    @torch.no_grad()
    def copied(self) -> Point:
        """Return a copy of all, on the same devices. Local."""
        return Point(
            [(p, p.detach().clone()) for p in self._trained()],
            [(module, name, buffer.clone()) for module, name, buffer in self._buffers()],
            *map(_copied, self._state()),
        )

    @torch.no_grad()
    def put_back(self, point: Point) -> None:
        """Go back to a copy, which then belongs to the optimizer: use it once. Local.

        A Schedule-Free optimizer in eval mode stays in it: its weights become the averages of
        that point.
        """
        evaluating = any(g.get("train_mode") is False for g in self._optimizer.param_groups)
        for parameter, values in point.parameters:
            parameter.copy_(values)
        for module, name, values in point.buffers:
            module._buffers[name] = _filled(module._buffers.get(name), values)
        self._set_state(point.state, point.shared, point.counters)
        if evaluating and any(g.get("train_mode") for g in self._optimizer.param_groups):
            self._optimizer.eval()  # pyright: ignore[reportAttributeAccessIssue]

    @torch.no_grad()
    def take_from(self, owner: int, replicas: Replicas) -> None:
        """Make all replicas equal to one of them, bit for bit. Collective.

        Args:
            owner: its index.
            replicas: who takes part.
        """
        if not replicas.connected or replicas.size == 1:
            return
        device = next((p.device for p in self._trained()), torch.device("cpu"))
        # Which state there is may differ: of a parameter that only some have used so far.
        box: list[Any] = [None]
        if replicas.rank == owner:
            box = [[_outlined(part, device) for part in self._state()]]
        dist.broadcast_object_list(box, group=replicas.group, group_src=owner, device=device)
        if replicas.rank != owner:
            self._set_state(*box[0], device=device)
        buffers = [buffer for _, _, buffer in self._buffers()]
        state = [t for part in self._state() for t in _tensors(part)]
        tensors = [*self._trained(), *buffers, *(t for t in state if _travels(t, device))]
        _broadcast([t.detach() for t in tensors if t.numel()], owner, replicas)

    # --- checkpoints

    def state_dict(self, point: Point) -> dict[str, Any]:
        """Return a copy of a point as plain lists, numbers and tensors. Local."""
        return {
            "parameters": [values.clone() for _, values in point.parameters],
            "buffers": [values.clone() for _, _, values in point.buffers],
            "state": _copied(point.state),
            "shared": _copied(point.shared),
            "counters": _copied(point.counters),
        }

    def parsed(self, entries: Entries) -> Point:
        """Return the point that a state holds, copied; nothing here changes.

        Raises:
            ValueError: if the state is damaged, or of another model or optimizer.
        """

        def values(key: str, like: Sequence[Tensor]) -> list[Tensor]:
            listed = entries.listed(key, len(like))
            found = [
                listed.tensor(str(k), t.shape, t.dtype, finite=False)
                for k, t in enumerate(like)
            ]
            return [f.to(t.device, copy=True) for f, t in zip(found, like, strict=True)]

        trained, buffers = self._trained(), list(self._buffers())
        parameters, groups = self._parameters(), self._optimizer.param_groups
        own = entries.items("state", len(parameters))
        counters = entries.items("counters", len(groups))
        for key, rows in (("state", own), ("counters", counters)):
            for k, row in enumerate(rows):
                if not isinstance(row, dict) and not (row is None and key == "state"):
                    entries.refuse(f"{key}.{k}", row, "must be a dictionary")
        device = next((p.device for p in parameters), torch.device("cpu"))
        return Point(
            list(zip(trained, values("parameters", trained), strict=True)),
            [
                (module, name, found)
                for (module, name, _), found in zip(
                    buffers, values("buffers", [b for *_, b in buffers]), strict=True
                )
            ],
            [_copied(s, p.device) for s, p in zip(own, parameters, strict=True)],
            _copied(entries.entries("shared").whole(), device),
            [_copied(c, device) for c in counters],
        )

    # --- what there is

    def _parameters(self) -> list[Tensor]:
        return [p for group in self._optimizer.param_groups for p in group["params"]]

    def _trained(self) -> list[Tensor]:
        return [p for p in self._parameters() if p.requires_grad]

    def _buffers(self) -> Iterator[tuple[nn.Module, str, Tensor]]:
        """Yield all but those that nobody can write to, since their elements share memory."""
        seen: set[int] = set()
        for module in self._model.modules() if self._model is not None else ():
            for name, buffer in module._buffers.items():
                if buffer is None or id(buffer) in seen:
                    continue
                seen.add(id(buffer))
                if all(n < 2 or s for n, s in zip(buffer.shape, buffer.stride(), strict=True)):
                    yield module, name, buffer

    def _state(self) -> tuple[list[Any], dict[Any, Any], list[dict[str, Any]]]:
        """Return what the optimizer keeps itself: of each parameter, beside, and counters."""
        state = self._optimizer.state
        return (
            [state.get(p) for p in self._parameters()],
            {key: value for key, value in state.items() if not isinstance(key, Tensor)},
            [
                {key: group[key] for key in _COUNTERS if key in group}
                for group in self._optimizer.param_groups
            ],
        )

    def _set_state(
        self,
        own: Sequence[Any],
        shared: dict[Any, Any],
        counters: Sequence[dict[str, Any]],
        device: torch.device | None = None,
    ) -> None:
        parameters, state = self._parameters(), self._optimizer.state
        fresh: dict[Any, Any] = {
            p: _filled(state.get(p), then, p.device)
            for p, then in zip(parameters, own, strict=True)
            if then is not None
        }
        fresh |= {key: _filled(state.get(key), then, device) for key, then in shared.items()}
        state.clear()
        state.update(fresh)
        for group, then in zip(self._optimizer.param_groups, counters, strict=True):
            group |= {key: _filled(group.get(key), v, device) for key, v in then.items()}


def _copied(value: Any, device: torch.device | None = None) -> Any:
    """Return a copy that shares nothing with the original.

    Args:
        value: nested or not.
        device: where tensors go that are not single numbers; None to leave them.
    """
    if isinstance(value, Tensor):
        # The count of steps is most often on the CPU, wherever the parameter is.
        moves = device is not None and value.numel() > 1
        return value.detach().to(device if moves else None, copy=True)
    if isinstance(value, dict):
        return {key: _copied(inside, device) for key, inside in value.items()}
    if isinstance(value, list):
        return [_copied(inside, device) for inside in value]
    if type(value) is tuple:
        return tuple(_copied(inside, device) for inside in value)
    return copy.deepcopy(value)


def _filled(now: Any, then: Any, device: torch.device | None = None) -> Any:
    """Return `then` in the memory of `now`, as far as that fits.

    A meta tensor stands for values that are still to come: its place is found, or made on
    `device`.
    """
    if isinstance(then, Tensor):
        fits = isinstance(now, Tensor) and (now.shape, now.dtype) == (then.shape, then.dtype)
        if then.is_meta:
            return now if fits else torch.empty_like(then, device=device)
        return now.copy_(then) if fits else then
    if isinstance(then, dict):
        inside = now if isinstance(now, dict) else {}
        fresh = {key: _filled(inside.get(key), value, device) for key, value in then.items()}
        inside.clear()
        inside.update(fresh)
        return inside
    if isinstance(then, list) or type(then) is tuple:
        same = type(now) is type(then) and len(now) == len(then)
        before = now if same else [None] * len(then)
        fresh = [_filled(a, b, device) for a, b in zip(before, then, strict=True)]
        if same and isinstance(now, list):
            now[:] = fresh
            return now
        return type(then)(fresh)
    return then


def _travels(tensor: Tensor, device: torch.device) -> bool:
    """Return whether it is where the replicas' collectives run."""
    return tensor.device.type == device.type


def _outlined(value: Any, device: torch.device) -> Any:
    """Return a copy without the values that follow in collectives of their own."""
    if isinstance(value, Tensor):
        value = value.detach()
        return value.to("meta") if _travels(value, device) else value.clone()
    if isinstance(value, dict):
        return {key: _outlined(inside, device) for key, inside in value.items()}
    if isinstance(value, list) or type(value) is tuple:
        return type(value)(_outlined(inside, device) for inside in value)
    return value


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield what is inside, in an order that is the same on all replicas."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for inside in value.values() if isinstance(value, dict) else value:
            yield from _tensors(inside)


def _broadcast(tensors: Sequence[Tensor], owner: int, replicas: Replicas) -> None:
    """Send tensors of any type as bytes, which arrive as they are."""
    works = []
    for tensor in tensors:
        dense = tensor.contiguous()
        wire = dense.view(-1).view(torch.uint8)
        work = dist.broadcast(wire, group=replicas.group, group_src=owner, async_op=True)
        works.append((work, tensor, dense))
    for work, tensor, dense in works:
        if work is not None:
            work.wait()
        if dense is not tensor:
            tensor.copy_(dense)
