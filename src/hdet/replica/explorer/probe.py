"""The paired probe: every replica scores the same batch, and training does not notice.

On batches of their own, the replicas' losses differ by the batches far more than by the
hyperparameters. On one common batch the batch cancels, and what is left is the line search.

A probe is any callable that returns this replica's loss as one number. It runs without
gradients unless it needs them, in eval or train mode, with the random states of torch, NumPy
and `random` set aside (and the same for all replicas, so that dropout draws the same masks),
and with the model's buffers put back.

Source: common random numbers, as in HDET's loss comparison (arXiv 2604.24708, equation 4) but
paired; the measurement that called for it is in the documentation.
"""

import math
import random  # noqa: TID251 -- nothing is drawn: its state is put aside and back
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from ...errors import require, where
from ...seeding import generator
from ..ensemble.groups import require_membership
from ..ensemble.meshes import reshard

Probe = Callable[[], Tensor | float]
Mode = Literal["eval", "train"]
_Score = TypeVar("_Score")


def probe(
    model: nn.Module,
    loader: Iterable[Any],
    loss: Callable[[nn.Module, Any], Tensor],
    process_group: dist.ProcessGroup | None = None,
) -> Probe:
    """Make a probe from a data loader and a loss function, for `Explorer(probe=...)`.

    At every sync the first process draws the next batch from its loader, starting over at
    the end, and sends it to the others. Training does not notice: gradients, random state,
    buffers and module modes stay bit-identical. Besides the forward pass it takes one more copy
    of the weights for its time.

    Args:
        model: given to `loss`; the plain module rather than its DDP wrapper.
        loader: gives batches: tensors, or tuples, lists and dicts of them. Data that
            the replicas do not train on works best. Larger batches give a clearer signal, at
            one forward pass each per sync.
        loss: loss(model, batch) -> mean loss, one element. Label smoothing and other
            regularisers left out, it scores what you care for. If it takes derivatives of
            the model, wrap it in `torch.enable_grad()`, or it is called a second time.
        process_group: over which the batch is sent; default all processes.

    Returns:
        The callable. Calling it is collective.

    Raises:
        ValueError: if Accelerate has prepared the loader; when it is called, if it is empty.
    """
    kind = type(loader).__name__
    require(
        not any(cls.__name__ == "DataLoaderStateMixin" for cls in type(loader).__mro__),
        "probe",
        "loader",
        kind,
        "must be the loader itself: rank 0 alone draws from it, and all processes draw from "
        "one that Accelerate has prepared",
        "leave it out of `prepare()`",
    )
    batches = iter(())

    def next_batch() -> Any:
        nonlocal batches
        for _ in range(2):
            for batch in batches:
                return batch
            batches = iter(loader)
        return None

    def score() -> Tensor:
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        connected = dist.is_available() and dist.is_initialized()
        require_membership(process_group, "probe")
        box, failed = [None, ""], None
        if not connected or dist.get_rank(process_group) == 0:
            # What goes wrong here is sent too: the others wait for the batch.
            try:
                box[0] = _move(next_batch(), torch.device("cpu"))
            except Exception as error:
                failed, box[1] = error, f"{type(error).__name__}: {error}"
        if connected and dist.get_world_size(process_group) > 1:
            dist.broadcast_object_list(
                box, group=process_group, group_src=0, device=_wire(process_group, device)
            )
        if failed is not None:
            raise failed
        if box[1]:
            raise RuntimeError(
                f"{where()}`probe(loader=...)` failed on its first process: {box[1]}"
            )
        require(box[0] is not None, "probe", "loader", kind, "gave no batch", "give it data")
        batch = _move(box[0], device)
        return _in_either_mode(lambda: loss(model, batch), model)

    return score


@torch.no_grad()
def evaluate(
    score: Probe, model: nn.Module | None, mode: Mode, seed: int, sync: int
) -> tuple[float | Tensor, float]:
    """Call a probe so that training goes on as if it had not been called.

    Args:
        score: the probe.
        model: whose mode, buffers and devices are to be looked after; None for none.
        mode: "eval" or "train" for the time of the call.
        seed: of the run; with `sync` it seeds the random state that the probe sees.
        sync: index of the sync.

    Returns:
        The loss, one element, on its device; and the milliseconds that the host spent.

    Raises:
        ValueError: if the probe gives anything but one number.
    """
    start = time.perf_counter()
    modules = [] if model is None else list(model.modules())
    training = [module.training for module in modules]
    # By module and name: a module may write into a buffer, or put another one there.
    kept = [
        (module, name, buffer, buffer.clone())
        for module in modules
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    reshard(model)
    try:
        if model is not None:
            model.train(mode == "train")
        with _random_state(model, seed, sync):
            result = _in_either_mode(score, model)
    finally:
        for module, was in zip(modules, training, strict=True):
            module.training = was
        for module, name, buffer, old in kept:
            module._buffers[name] = buffer.copy_(old)
        reshard(model)
    if isinstance(result, Tensor):
        if result.numel() != 1:
            raise ValueError(
                f"{where()}`Explorer(probe=...)` must return one number, and returned a "
                f"tensor of shape {tuple(result.shape)}: give its mean."
            )
        result = result.detach().reshape(())
    elif not isinstance(result, (int, float)):
        raise ValueError(
            f"{where()}`Explorer(probe=...)` must return one number, and returned "
            f"{type(result).__name__}: return this replica's mean loss."
        )
    return result, 1000 * (time.perf_counter() - start)


@contextmanager
def evaluation_weights(optimizer: Optimizer) -> Iterator[None]:
    """Have the optimizer's weights for evaluation in the model for a block, if it has any.

    Schedule-Free and its like train at other weights than those that they are evaluated by, and
    go from one to the other by methods `eval` and `train`. Afterwards all is as before, to the
    bit. Local; takes a copy of the weights.
    """
    to_eval, to_train = (getattr(optimizer, mode, None) for mode in ("eval", "train"))
    if not (callable(to_eval) and callable(to_train)):
        yield
        return
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    kept = [weight.detach().clone() for weight in weights]
    to_eval()
    try:
        yield
    finally:
        to_train()
        with torch.no_grad():
            for weight, own in zip(weights, kept, strict=True):
                weight.copy_(own)


def _in_either_mode(call: Callable[[], _Score], model: nn.Module | None) -> _Score:
    """Return `call()`, made without gradients unless it turns out to need them.

    As where the loss holds derivatives of the model. No gradient is left behind.
    """
    try:
        return call()
    except RuntimeError as error:
        if torch.is_grad_enabled() or "does not require grad" not in str(error):
            raise
    kept = [] if model is None else [(p, p.grad) for p in model.parameters()]
    try:
        for parameter, _ in kept:
            parameter.grad = None
        with torch.enable_grad():
            return call()
    finally:
        for parameter, gradient in kept:
            parameter.grad = gradient


@contextmanager
def _random_state(model: nn.Module | None, seed: int, sync: int) -> Iterator[None]:
    """Give the block the same random state on all replicas, and put the old one back.

    Of torch, on the CPU and the model's devices, and of what data loaders draw from besides:
    NumPy's global state, where NumPy is loaded, and that of `random`.
    """
    devices = set() if model is None else {p.device for p in model.parameters()}
    modules = [(d, torch.get_device_module(d)) for d in devices if d.type in ("cuda", "xpu")]
    if any(d.type == "mps" for d in devices):
        modules.append((torch.device("mps"), torch.mps))
    numpy = getattr(sys.modules.get("numpy"), "random", None)
    ours = generator(seed, "probe", sync)
    kept = torch.get_rng_state(), random.getstate(), numpy and numpy.get_state()
    on_devices = [
        (_device_argument(d), m, m.get_rng_state(*_device_argument(d))) for d, m in modules
    ]
    try:
        torch.set_rng_state(ours.get_state())
        number = int(torch.randint(2**32, (), generator=ours))
        random.seed(number)
        if numpy:
            numpy.seed(number)
        for device, module in modules:
            state = generator(seed, "probe", sync, device=str(device)).get_state()
            module.set_rng_state(state, *_device_argument(device))
        yield
    finally:
        torch.set_rng_state(kept[0])
        random.setstate(kept[1])
        if numpy:
            numpy.set_state(kept[2])
        for argument, module, state in on_devices:
            module.set_rng_state(state, *argument)


def _device_argument(device: torch.device) -> tuple[torch.device, ...]:
    """Return the argument that names a device; there is only one MPS, and it takes none."""
    return () if device.type == "mps" else (device,)


def _move(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: _move(value, device) for key, value in batch.items()}
    if hasattr(batch, "to"):
        return batch.to(device)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(_move(value, device) for value in batch))
    if isinstance(batch, (tuple, list)):
        return type(batch)(_move(value, device) for value in batch)
    return batch


def _wire(group: dist.ProcessGroup | None, device: torch.device) -> torch.device:
    """Return the device on which the group's backend can send a pickled batch."""
    nccl = "nccl" in str(dist.get_backend(group)).lower()
    return device if nccl and device.type == "cuda" else torch.device("cpu")


def number(value: float | Tensor | None) -> float:
    """Return a probe's loss as a float; NaN for none. Waits for the device."""
    return math.nan if value is None else float(value)
