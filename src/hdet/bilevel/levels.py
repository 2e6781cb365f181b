"""A level's value, and what it depends on, checked where a run begins.

A level that returns many numbers, or integers, or that was made where torch records no graph,
has no derivative that would mean anything. And a hyperparameter that the lower level never
reads has the derivative zero, as a run has that came to its end: it is told apart by the graph.
"""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from ..errors import where


def evaluate(
    name: str, level: Callable[..., Any], trees: Sequence[Any], rows: int, like: Tensor
) -> Tensor:
    """Return a level's values, [m].

    Args:
        name: "upper" or "lower".
        level: the callable.
        trees: what it is given.
        rows: m, how many values it must return.
        like: a tensor of x's type.

    Raises:
        ValueError: if it returns something else, or computes with what torch cannot
            differentiate.
    """
    try:
        made = level(*trees)
    except RuntimeError as error:
        if "Inference tensors cannot be saved" not in str(error):
            raise
        refuse(
            name,
            "computes with a tensor that was made inside `torch.inference_mode()`, which "
            "torch cannot differentiate with",
            "make it outside, or with `torch.no_grad()`, or clone it outside first",
            error,
        )
    if not isinstance(made, Tensor):
        refuse(name, f"returned a {type(made).__name__}", "return a scalar tensor of torch")
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
    """Return of each leaf whether `of` was computed from it, as the graph has it.

    Args:
        of: what was computed.
        leaves: tensors that were computed from others that require a gradient.
    """
    # Nodes are kept, as Python's objects for them are one only as long as one is held.
    edges, todo = {(of.grad_fn, of.output_nr)}, [of.grad_fn]
    while todo:
        node = todo.pop()
        for edge in node.next_functions if node is not None else ():
            if edge not in edges:
                edges.add(edge)
                todo.append(edge[0])
    return [(leaf.grad_fn, leaf.output_nr) in edges for leaf in leaves]


def refuse(name: str, found: str, remedy: str, error: BaseException | None = None) -> NoReturn:
    """Raise the `ValueError` that says what is wrong with a level.

    Args:
        name: "upper" or "lower".
        found: what it does.
        remedy: what it should do.
        error: what it raised.
    """
    raise ValueError(f"{where()}`Problem({name}=...)` {found}: {remedy}.") from error
