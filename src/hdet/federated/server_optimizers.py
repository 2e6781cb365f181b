"""Baselines for what the server does with the mean client update.

Each maps the mean update Delta (new minus old, flat) to the step that is added to the
global weights. They are the pure counterparts of Flower's strategies of the same names,
formula for formula, for rounds within one process:

    FedAvg      step = Delta
    FedAvgM     m = mu m + Delta;                          step = eta m
    FedAdam     m, v as in Adam, correction at t + 1;      step = eta_t m / (sqrt(v) + tau)
    FedAdagrad  v += Delta^2;                              step = eta m / (sqrt(v) + tau)
    FedYogi     v -= (1-b2) Delta^2 sign(v - Delta^2);     step = eta m / (sqrt(v) + tau)

Source: Hsu, Qi, Brown 2019 (arXiv:1909.06335) for momentum; Reddi et al. 2021
(arXiv:2003.00295), Algorithm 2, for the adaptive ones.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import require_number


class ServerOptimizer(ABC):
    """A rule that maps the mean client update to the server's step."""

    @abstractmethod
    def step(self, delta: Tensor) -> Tensor:
        """Return what is added to the global weights, [n] as `delta`. Local."""


class FedAvg(ServerOptimizer):
    """The mean update itself."""

    def step(self, delta: Tensor) -> Tensor:
        """Return `delta`."""
        return delta


class FedAvgM(ServerOptimizer):
    """Server momentum.

    Args:
        eta: server learning rate.
        momentum: mu.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(self, eta: float = 1.0, momentum: float = 0.9) -> None:
        require_number("FedAvgM", "eta", eta, "1.0 is usual", above=0)
        require_number("FedAvgM", "momentum", momentum, "0.9 is usual", low=0, below=1)
        self._eta, self._momentum = eta, momentum
        self._mean: Tensor | None = None

    def step(self, delta: Tensor) -> Tensor:
        """Return eta times the running sum of updates."""
        # A copy: the caller may use its buffer again.
        self._mean = (
            delta.clone() if self._mean is None else self._momentum * self._mean + delta
        )
        return self._eta * self._mean


@dataclass
class _Adaptive(ServerOptimizer):
    """Moments of the mean update, for the three adaptive rules."""

    eta: float = 0.1
    beta_1: float = 0.9
    beta_2: float = 0.99
    tau: float = 1e-3

    def __post_init__(self) -> None:
        name = type(self).__name__
        require_number(name, "eta", self.eta, "leave it out", above=0)
        require_number(name, "tau", self.tau, "0.001 is usual", above=0)
        require_number(name, "beta_1", self.beta_1, "0.9 is usual", low=0, below=1)
        require_number(name, "beta_2", self.beta_2, "0.99 is usual", low=0, below=1)
        self._mean = self._square = torch.zeros(())
        self._round = 0

    def step(self, delta: Tensor) -> Tensor:
        """Return the adaptive step."""
        self._round += 1
        # Scalar zeros before the first round.
        mean, square = (m.to(delta).expand_as(delta) for m in (self._mean, self._square))
        self._mean = self.beta_1 * mean + (1 - self.beta_1) * delta
        self._square = self._second_moment(square, delta**2)
        return self._rate() * self._mean / (self._square.sqrt() + self.tau)

    def _rate(self) -> float:
        return self.eta

    @abstractmethod
    def _second_moment(self, square: Tensor, new: Tensor) -> Tensor: ...


class FedAdam(_Adaptive):
    """Adam on the server.

    Args:
        eta: server learning rate, 0.1 by default.
        beta_1: decay of the first moment.
        beta_2: decay of the second moment.
        tau: added to the root of the second moment.

    Raises:
        ValueError: if an argument is out of range.
    """

    def _rate(self) -> float:
        # Flower counts from t + 1, one round ahead of Kingma and Ba.
        t = self._round + 1
        return self.eta * math.sqrt(1 - self.beta_2**t) / (1 - self.beta_1**t)

    def _second_moment(self, square: Tensor, new: Tensor) -> Tensor:
        return self.beta_2 * square + (1 - self.beta_2) * new


class FedAdagrad(_Adaptive):
    """Adagrad on the server.

    Args:
        eta: server learning rate.
        tau: added to the root of the second moment.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(self, eta: float = 0.1, tau: float = 1e-3) -> None:
        super().__init__(eta, 0.0, 0.0, tau)

    def _second_moment(self, square: Tensor, new: Tensor) -> Tensor:
        return square + new


@dataclass
class FedYogi(_Adaptive):
    """Yogi on the server.

    Args:
        eta: server learning rate, 0.01 by default.
        beta_1: decay of the first moment.
        beta_2: decay of the second moment.
        tau: added to the root of the second moment.

    Raises:
        ValueError: if an argument is out of range.
    """

    eta: float = 0.01

    def _second_moment(self, square: Tensor, new: Tensor) -> Tensor:
        return square - (1 - self.beta_2) * new * torch.sign(square - new)
