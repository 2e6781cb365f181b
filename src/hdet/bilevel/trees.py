"""Pytrees of tensors as matrices: a row per sample, a column per number of a sample.

The algorithms only know vectors. x is a tensor, or a nesting of dictionaries and lists of
tensors; it becomes [m, n], where m is 1, or the first dimension of every tensor if samples have
lower levels of their own. theta becomes [p].
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..errors import require


class Tree:
    """The structure of a pytree, and the conversion to and from a matrix.

    Args:
        like: a pytree of tensors of one floating-point type on one device.
        call: the public name that was called, for errors.
        argument: the name of `like` there.
        samples: whether the first dimension of every tensor counts samples.

    Attributes:
        names: of each tensor, such as "theta0['weight']".
        dtype: of all tensors.

    Raises:
        ValueError: if `like` is something else, or not finite.
    """

    def __init__(self, like: Any, call: str, argument: str, *, samples: bool = False) -> None:
        paths, self._spec = pytree.tree_flatten_with_path(like)
        leaves = [leaf for _, leaf in paths]
        self.names = [argument + pytree.keystr(path) for path, _ in paths]
        good = bool(leaves) and all(isinstance(leaf, Tensor) for leaf in leaves)
        what = [type(leaf).__name__ for leaf in leaves]
        require(good, call, argument, what, "must hold tensors only", "use torch.tensor(...)")
        kinds = {(leaf.dtype, leaf.device) for leaf in leaves}
        good = len(kinds) == 1 and leaves[0].is_floating_point()
        rule = "must be of one floating-point type, on one device"
        require(good, call, argument, sorted(map(str, kinds)), rule, "use .to(...) on each")
        self.dtype = leaves[0].dtype
        self._samples = samples
        self._shapes = [leaf.shape for leaf in leaves]
        if samples:
            lengths = sorted({shape[0] if shape else 0 for shape in self._shapes})
            good = len(lengths) == 1 and lengths[0] > 0
            rule = "must have one row per sample in every tensor"
            require(good, call, argument, lengths, rule, "use the same first dimension in all")
        good = sum(leaf.numel() for leaf in leaves) > 0
        shown = [tuple(shape) for shape in self._shapes]
        require(good, call, argument, shown, "must have at least one number", "give more")
        for name, leaf in zip(self.names, leaves, strict=True):
            wrong = leaf.detach()[~leaf.detach().isfinite()]
            shown = float(wrong[0]) if len(wrong) else None
            rule = f"must be finite, and {len(wrong)} of its numbers are not"
            require(not len(wrong), call, name, shown, rule, "start elsewhere")
        self._sizes = [leaf[0].numel() if samples else leaf.numel() for leaf in leaves]

    def flat(self, tree: Any) -> Tensor:
        """Return a pytree of this structure as a matrix [m, n], detached; a copy."""
        rows = self._shapes[0][0] if self._samples else 1
        leaves = pytree.tree_leaves(tree)
        with torch.inference_mode(False):
            return torch.cat([leaf.detach().reshape(rows, -1) for leaf in leaves], 1).clone()

    def tree(self, matrix: Tensor) -> Any:
        """Return a matrix [m, n] as a pytree of this structure; views, differentiable."""
        # The usual case is one tensor, and this is called at every point.
        parts = matrix.split(self._sizes, 1) if len(self._sizes) > 1 else [matrix]
        leaves = [part.reshape(shape) for part, shape in zip(parts, self._shapes, strict=True)]
        return pytree.tree_unflatten(leaves, self._spec)
