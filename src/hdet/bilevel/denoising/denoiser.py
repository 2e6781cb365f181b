"""What all denoisers share: learn theta from pairs of images, then minimise h for new ones.

    min over theta of  mean over pairs of |u(theta) - clean|^2 / 2        upper level
    u(theta)        =  argmin over u of h(u; noisy, theta)                lower level

Every pair has a lower level of its own, and all are solved in one batch. h is 1-strongly
convex, and the upper level 1-smooth and convex, whatever theta is. So the bounds of `maid` hold
for the exact mean, and a denoised image has a bound on its error.

Source: arXiv 2308.10098, section 4; Kunisch, Pock, SIAM J. Imaging Sci. 6(2), 2013.
"""

import os
import warnings
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from ...errors import require, require_number
from ...state import Entries
from ..hypergradient import Evaluator
from ..maid import maid
from ..modes import plain
from ..problem import Problem
from ..result import Callback, Result
from ..rules import Rules
from ..solvers import Solution
from .files import read, write
from .images import as_images, as_pairs
from .terms import Theta, fidelity

if TYPE_CHECKING:
    # Of the standard library from Python 3.11 on; torch brings this one.
    from typing_extensions import Self

Images = TypeVar("Images")
# Of images denoised at once, so that memory does not grow with their number.
_PIXELS = 2**18


class Denoiser(ABC):
    """A penalty that is learned; the public classes say which, and document the arguments."""

    # The smallest height and width that h takes, in pixels.
    _smallest = 1

    def __init__(
        self,
        *,
        max_steps: int = 100,
        budget: int | None = 2000,
        rules: Rules | None = None,
        callback: Callback | None = None,
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
    def _parsed(cls, entries: Entries) -> "Self":
        """Return a denoiser with the theta of a file; a `ValueError` if it is damaged."""

    def fit(self, clean: Any, noisy: Any, *, state: dict[str, Any] | None = None) -> "Self":
        """Learn theta from pairs of images. Local.

        Args:
            clean: tensor or array [..., h, w], float32 or float64; all leading dimensions
                count images. Small crops of many images teach more than few large ones.
            noisy: the images to be denoised, alike in shape, type and device.
            state: of an earlier `result` or callback, with the same images, to go on from
                there; `max_steps` and `budget` include what was done before.

        Returns:
            The denoiser itself; `result.status` says why it stopped.

        Raises:
            ValueError: if the images are not finite, too small, or do not match.

        Warns:
            UserWarning: if not a single step was made.
        """
        call = f"{type(self).__name__}.fit"
        clean, noisy = as_pairs(clean, noisy, call, self._smallest)
        noise = float((noisy - clean).square().mean().sqrt())
        self.result = maid(
            self._problem(noisy, lambda u: fidelity(u, clean)),
            {key: value.to(noisy) for key, value in self._start(noise).items()},
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
        """Return denoised images.

        Args:
            noisy: [..., h, w] of any size and number, in the units of `fit`. Each image is
                denoised by itself, and so is each channel of a colour image [3, h, w].
            accuracy: the allowed distance to the minimiser of h: root mean square over an
                image's pixels, in units of the image. The default is a quarter of a grey
                level of 256.

        Returns:
            Like `noisy`: tensor or array, of its type, on its device.

        Raises:
            ValueError: if nothing was learned, or the images are not finite or too small.

        Warns:
            RuntimeWarning: if the accuracy is not reached, as in float32; with what was.
        """
        call = f"{type(self).__name__}.denoise"
        learned = self._learned(call)
        require_number(call, "accuracy", accuracy, "the default is 1e-3", above=0)
        given = as_images(noisy, call, "noisy", self._smallest)
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

        Args:
            path: of the file.

        Raises:
            ValueError: if nothing was learned.
        """
        name = type(self).__name__
        write(path, name, self._learned(f"{name}.save"))

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: torch.device | str = "cpu") -> "Self":
        """Return a denoiser that `save` wrote.

        Args:
            path: of the file.
            device: of theta; `denoise` runs where the images are.

        Returns:
            A denoiser with the same theta, bit for bit.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is damaged, or of another class.
        """
        made = cls._parsed(read(path, cls.__name__))
        made.theta = {key: plain(value).to(device) for key, value in made.theta.items()}
        return made

    def _learned(self, call: str) -> Theta:
        rule = "must be learned first"
        require(bool(self.theta), call, "theta", self.theta, rule, "call fit, or load")
        return self.theta

    def _problem(self, noisy: Tensor, upper: Any) -> Problem:
        return Problem(
            upper,
            lambda u, theta: self._lower(u, noisy, theta),
            mu=1.0,
            upper_smoothness=1.0,
            upper_convex=True,
            samples=True,
        )

    def _solve(self, call: str, noisy: Tensor, theta: Theta, accuracy: float) -> Solution:
        """Return the minimisers of h for images [m, h, w], each within the accuracy."""
        problem = self._problem(noisy, lambda u: fidelity(u, noisy))
        f = Evaluator(call, problem, theta, noisy)
        return f.solve(f.oracle.flat_theta(theta), f.oracle.flat_x(noisy), accuracy)
