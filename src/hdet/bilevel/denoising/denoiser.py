"""What all denoisers share: learn theta from pairs of images, then minimise h for new ones.

    min over theta of  mean over pairs of |u(theta) - clean|^2 / 2        upper level
    u(theta)        =  argmin over u of h(u; noisy, theta)                lower level

Every pair has a lower level of its own, all are solved in one batch. h is 1-strongly convex
and the upper level is as smooth and as convex, whatever theta is, so that each step of `maid`
lowers the exact mean, and a denoised image comes with a bound on its error.

Source: arXiv 2308.10098, section 4; Kunisch, Pock, SIAM J. Imaging Sci. 6(2), 2013.
"""

import os
import warnings
from abc import ABC, abstractmethod
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from ...errors import require
from ...state import Entries
from ..checks import require_positive
from ..maid import Rules, maid
from ..modes import plain
from ..oracle import Oracle
from ..problem import Problem
from ..result import Callback, Result
from ..solvers import Solution, newton_cg
from .files import read, write
from .images import as_images, as_pairs
from .terms import Theta, fidelity

Images = TypeVar("Images")
# Of images denoised at once, so that memory does not grow with their number.
_PIXELS = 2**18
_NEWTON_STEPS = 1000


class Denoiser(ABC):
    """A penalty that is learned; the public classes say which.

    Args:
        max_steps: outer steps of `maid`.
        budget: its largest cost: lower gradients, Hessian-vector and mixed products.
        rules: its constants; None is `Rules()`.
        callback: called after every outer step with its record and the state behind it.

    Attributes:
        theta: what was learned, tensors by name; empty before.
        result: of `maid`, with status, history and counts; None before `fit`, after `load`.
    """

    def __init__(
        self,
        max_steps: int,
        budget: int | None,
        rules: Rules | None,
        callback: Callback | None,
    ) -> None:
        self._max_steps, self._budget = max_steps, budget
        self._rules, self._callback = rules, callback
        self.theta: Theta = {}
        self.result: Result | None = None

    @abstractmethod
    def _lower(self, u: Tensor, noisy: Tensor, theta: Theta) -> Tensor:
        """Return h of each image, [m], for images [m, h, w]."""

    @abstractmethod
    def _start(self, noise: float) -> Theta:
        """Return a first theta for noise of that standard deviation."""

    @classmethod
    @abstractmethod
    def _for(cls, theta: Theta) -> Self:
        """Return a denoiser that such a theta fits."""

    @classmethod
    @abstractmethod
    def _parse(cls, entries: Entries) -> Theta:
        """Return the theta of a file; a `ValueError` if it is none that was learned."""

    def _smallest(self) -> int:
        """Return the smallest height and width that h takes, in pixels."""
        return 1

    def fit(self, clean: Any, noisy: Any, *, state: dict[str, Any] | None = None) -> Self:
        """Learn theta from pairs of images. Local.

        Args:
            clean: tensor or array [..., h, w], float32 or float64; all leading dimensions
                count images. Small crops of many images teach more than few large ones.
            noisy: what is to become clean, alike in shape, type and device.
            state: of an earlier `result` or callback, with the same images, to go on from
                there; `max_steps` and `budget` count what was done before.

        Returns:
            itself; `result.status` says why it stopped.

        Raises:
            ValueError: if the images are not finite, too small, or unlike each other.

        Warns:
            UserWarning: if not a single step was made.
        """
        call = f"{type(self).__name__}.fit"
        clean, noisy = as_pairs(clean, noisy, call, self._smallest())
        noise = float((noisy - clean).square().mean().sqrt())
        problem = Problem(
            lambda u: fidelity(u, clean),
            lambda u, theta: self._lower(u, noisy, theta),
            mu=1.0,
            upper_smoothness=1.0,
            upper_convex=True,
            samples=True,
        )
        start = {key: value.to(noisy) for key, value in self._start(noise).items()}
        self.result = maid(
            problem,
            start,
            noisy,
            max_steps=self._max_steps,
            budget=self._budget,
            rules=self._rules,
            callback=self._callback,
            state=state,
        )
        self.theta = self.result.theta
        if not self.result.history:
            warnings.warn(f"{call} learned nothing. {self.result.message}", stacklevel=2)
        return self

    def denoise(self, noisy: Images, accuracy: float = 1e-3) -> Images:
        """Return denoised images, like `noisy`: tensor or array, of its type, on its device.

        Args:
            noisy: [..., h, w] of any size and number, in the units of `fit`. Each image is
                denoised by itself, and so is each channel of a colour image [3, h, w].
            accuracy: allowed distance to the minimiser of h: root mean square over an
                image's pixels, in units of the image. The default is a quarter of a grey
                level of 256. Where float32 cannot reach it, a warning says what it did.

        Raises:
            ValueError: if nothing was learned, or the images are not finite or too small.
        """
        call = f"{type(self).__name__}.denoise"
        learned = self._learned(call)
        require_positive(call, "accuracy", accuracy)
        given = as_images(noisy, call, "noisy", self._smallest())
        theta = {key: value.to(given) for key, value in learned.items()}
        images = given.reshape(-1, *given.shape[-2:])
        pixels = images[0].numel()
        parts = images.split(max(1, _PIXELS // pixels))
        solved = [self._solve(call, part, theta, accuracy * pixels**0.5) for part in parts]
        short = [float(one.accuracy.max()) for one in solved if not one.met]
        if short:
            reached = max(short) / pixels**0.5
            said = f"{call} reached an accuracy of {reached:.2g} instead of {accuracy:.2g}"
            warnings.warn(said, RuntimeWarning, stacklevel=2)
        out: Any = plain(torch.cat([one.x for one in solved]).reshape(given.shape))
        return out if isinstance(noisy, Tensor) else out.numpy()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write theta to a file, whole or not at all; `load` reads it.

        Raises:
            ValueError: if nothing was learned.
        """
        name = type(self).__name__
        write(path, name, self._learned(f"{name}.save"))

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Self:
        """Return a denoiser that `save` wrote, with the same theta bit for bit.

        Args:
            path: of the file.
            device: of theta; `denoise` runs where the images are.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is damaged, or of another class.
        """
        theta = cls._parse(read(path, cls.__name__))
        made = cls._for(theta)
        made.theta = {key: plain(value).to(device) for key, value in theta.items()}
        return made

    def _learned(self, call: str) -> Theta:
        rule = "must be learned first"
        require(bool(self.theta), call, "theta", self.theta, rule, "call fit, or load")
        return self.theta

    def _solve(self, call: str, noisy: Tensor, theta: Theta, accuracy: float) -> Solution:
        """Return h's minimisers for images [m, h, w], each at most `accuracy` off."""
        problem = Problem(
            lambda u: fidelity(u, noisy),
            lambda u, theta: self._lower(u, noisy, theta),
            mu=1.0,
            samples=True,
        )
        oracle = Oracle(problem, theta, noisy, call)
        flat = oracle.flat_theta(theta), oracle.flat_x(noisy)
        return newton_cg(oracle, *flat, accuracy, 1.0, _NEWTON_STEPS)
