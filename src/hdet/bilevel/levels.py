"""The value of a level and what it depends on, checked where a run begins.

A level that returns many numbers or integers, or whose graph was cut, has no useful
derivative. A hyperparameter that the lower level never reads has the derivative zero, just as
at a minimum; the graph tells the two apart.
"""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from ..errors import where


def evaluate(
    name: str, level: Callable[..., Any], trees: Sequence[Any], rows: int, like: Tensor
) -> Tensor:
    """Return the values of the level `name`, "upper" or "lower", of some trees, [rows].

    Raises:
        ValueError: if it does not return as many in the type of `like`, or computes with a
            tensor that torch cannot differentiate with.
    """
    try:
        made = level(*trees)
    except RuntimeError as error:
        if "Inference tensors cannot be saved" not in str(error):
            raise
        found = "computes with a tensor that was made inside `torch.inference_mode()`"
        remedy = (
            "torch cannot differentiate with it; make it outside, or with `torch.no_grad()`, "
            "or clone it outside first"
        )
        refuse(name, found, remedy, error)
    if not isinstance(made, Tensor):
        refuse(name, f"returned a {type(made).__name__}", "return a scalar tensor")
    found = f"returned a tensor of shape {tuple(made.shape)} and {made.dtype}"
    if made.numel() != rows:
        if rows > 1:
            refuse(name, found, f"return one value for each of the {rows} samples")
        refuse(name, found, "return a scalar: use .sum() or .mean(), or give samples=True")
    exact = torch.promote_types(made.dtype, like.dtype) == made.dtype
    if not made.is_floating_point() or not exact:
        refuse(name, found, f"return it in the type of x, {like.dtype}")
    return made.reshape(rows)


def reached(of: Tensor, leaves: Sequence[Tensor]) -> list[bool]:
    """Return for each leaf, itself computed from others, whether the graph leads to it."""
    # The nodes are kept: Python's object for a node is only unique while it is held.
    edges, todo = {(of.grad_fn, of.output_nr)}, [of.grad_fn]
    while todo:
        node = todo.pop()
        for edge in node.next_functions if node is not None else ():
            if edge not in edges:
                edges.add(edge)
                todo.append(edge[0])
    return [(leaf.grad_fn, leaf.output_nr) in edges for leaf in leaves]


def refuse(name: str, found: str, remedy: str, error: BaseException | None = None) -> NoReturn:
    """Raise a `ValueError` about the level `name`: what was found, and the remedy."""
    raise ValueError(f"{where()}`Problem({name}=...)` {found}: {remedy}.") from error
