"""One client's round: a rate, a proximal term and statistics around any torch optimizer.

The client keeps its loop, its optimizer and its model, and makes one `LocalTraining` a round:

    rate        sets the optimizer's rate to the message's, and with FedHyper-CL or Delta-SGD
                moves it before every step, from that step's gradient
    proximal    mu/2 ||w - w^t||^2, added to the loss: FedProx
    report      the statistics for selectors: losses, duration, and how far w has moved

Source: Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020,
arXiv:1812.06127, equation (2), for the proximal term (the norm is squared); for the rate
`hdet.federated.client_rate` and `hdet.federated.delta_sgd`.
"""

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..errors import require, require_number
from .client_rate import ClientLocalRate
from .delta_sgd import DeltaSGD
from .rates import RATE_REMEDY
from .selection import ClientReport

_CALL = "LocalTraining"


class LocalTraining:
    """A client's training in one round; make a new one after loading the global weights.

        local = LocalTraining(model, optimizer, rate=0.05, proximal_mu=0.1)
        for x, y in batches:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            (loss + local.proximal()).backward()
            local.step(loss)  # in place of optimizer.step()
        report = local.report(num_examples=len(data))

    Everything is local, nothing communicates. Losses stay on the device until `report`.

    Args:
        model: with w^t, the global weights. Its parameters with `requires_grad` are trained
            and measured, in the order of `model.parameters()`.
        optimizer: any torch optimizer over parameters of `model`.
        rate: beta^0 > 0, the first parameter group's rate; the other groups keep their
            ratios to it.
        client_rate: FedHyper-CL or Delta-SGD for this round, started at the same `rate`; None
            holds the rate.
        proximal_mu: mu >= 0; with 0 there is no proximal term.
        max_norm: gradients are clipped to this norm before each step; None is no clipping.
            FedHyper-CL sees the clipped gradients, of which the step is made; Delta-SGD sees
            the others, since clipping changes them without any curvature.

    Raises:
        ValueError: if an argument is out of range, or `optimizer` is not `model`'s.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        rate: float,
        *,
        client_rate: ClientLocalRate | DeltaSGD | None = None,
        proximal_mu: float = 0.0,
        max_norm: float | None = None,
    ) -> None:
        require_number(_CALL, "rate", rate, RATE_REMEDY, above=0)
        remedy = "0.0 is training without the proximal term"
        require_number(_CALL, "proximal_mu", proximal_mu, remedy, low=0)
        if max_norm is not None:
            remedy = "None is training without clipping"
            require_number(_CALL, "max_norm", max_norm, remedy, above=0, finite=False)
        start = None if client_rate is None else client_rate.beta
        rule, remedy = f"must start at rate={rate}", "make a new one with beta=rate every round"
        require(start in (None, rate), _CALL, "client_rate", start, rule, remedy)
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._start = [p.detach().clone() for p in self._parameters]
        self._buffers = list(model.buffers())
        self._ratios = _ratios(optimizer, self._parameters)
        self._optimizer, self._client_rate = optimizer, client_rate
        self._mu, self._max_norm = proximal_mu, max_norm
        self._before: list[Tensor] | None = None
        self._losses: list[Tensor] = []
        self._began = time.perf_counter()
        self._set_rate(rate)

    @property
    def rate(self) -> float:
        """The first group's rate in the last step, beta^0 before the first. Local."""
        return self._rate

    def proximal(self) -> Tensor | float:
        """Return mu/2 ||w - w^t||^2 over the trained parameters, to add to the loss. Local."""
        if self._mu == 0:
            return 0.0
        pairs = zip(self._parameters, self._start, strict=True)
        return self._mu / 2 * sum((p - start).square().sum() for p, start in pairs)

    def step(self, loss: Tensor, again: Callable[[], Tensor] | None = None) -> None:
        """Make one optimizer step, with the gradients of `backward()`. Local.

        Args:
            loss: this batch's loss without the proximal term, for the statistics: a
                scalar, or one number for each example, [batch], which makes them exact
                where batches differ in size.
            again: for Delta-SGD: a function that computes, from the same batch, the loss that
                `backward()` was called on. It is called at the weights of the step before;
                not in a round's first step, nor for any other rule.

        Raises:
            ValueError: if there are no gradients, if Delta-SGD has no `again`, or if a rule
                for the rate meets gradients that are not finite; the model is then as before.
        """
        if all(p.grad is None for p in self._parameters):
            raise ValueError(
                "`LocalTraining.step(...)` found no gradients: call `backward()` on the loss "
                "before it, and `optimizer.zero_grad()` before that."
            )
        if isinstance(self._client_rate, DeltaSGD):
            self._follow_curvature(self._client_rate, again)
        if self._max_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters, self._max_norm)
        if isinstance(self._client_rate, ClientLocalRate):
            self._set_rate(self._client_rate.update(self._gradient()))
        self._optimizer.step()
        self._losses.append(loss.detach().reshape(-1))

    def update(self) -> Tensor:
        """Return w - w^t, flat, in the order of the trained parameters. Local."""
        pairs = zip(self._parameters, self._start, strict=True)
        return torch.cat([(p.detach() - start).reshape(-1) for p, start in pairs])

    def report(
        self, num_examples: int, label_counts: Sequence[int] | None = None
    ) -> ClientReport:
        """Return the statistics of the round so far. Local; synchronises with the device.

        Args:
            num_examples: training examples on this client, its weight in the mean.
            label_counts: how many of each label, for selectors that use it. It tells the
                server what data this client has, so it is never counted without being given.

        Raises:
            ValueError: if no step was made.
        """
        if not self._losses:
            raise ValueError(
                "`LocalTraining.report(...)` needs at least one step: a client without data "
                "should raise an error instead of replying."
            )
        losses = torch.cat(self._losses)
        update = self.update()
        return ClientReport(
            loss=float(losses.mean()),
            squared_loss=float(losses.square().mean()),
            num_examples=num_examples,
            duration=time.perf_counter() - self._began,
            update=update,
            update_norm=float(torch.linalg.vector_norm(update)),
            label_counts=label_counts,
        )

    def _gradient(self) -> Tensor:
        return _joined([p.grad for p in self._parameters], self._parameters)

    def _follow_curvature(self, rule: DeltaSGD, again: Callable[[], Tensor] | None) -> None:
        """Set Delta-SGD's rate for this step, and keep these weights for the next."""
        if again is None:
            raise ValueError(
                "`LocalTraining.step(again=None)` must be a function with Delta-SGD, which "
                "takes a second gradient of the same batch: write step(loss, again=lambda: "
                "criterion(model(x), y))."
            )
        weights = [p.detach().clone() for p in self._parameters]
        if self._before is not None:
            pairs = zip(weights, self._before, strict=True)
            weight_change = torch.cat([(now - then).reshape(-1) for now, then in pairs])
            gradient_change = self._gradient() - self._gradient_at(self._before, again)
            self._set_rate(rule.update(weight_change, gradient_change))
        self._before = weights

    def _gradient_at(self, weights: Sequence[Tensor], again: Callable[[], Tensor]) -> Tensor:
        """Return the gradient of `again()` at other weights; the model stays as it is."""
        # A forward pass in training mode changes running statistics, too.
        held = [*self._parameters, *self._buffers]
        kept = [tensor.detach().clone() for tensor in held]
        _put(weights, self._parameters)
        try:
            with torch.enable_grad():
                gradients = torch.autograd.grad(again(), self._parameters, allow_unused=True)
        finally:
            _put(kept, held)
        return _joined(gradients, self._parameters)

    def _set_rate(self, rate: float) -> None:
        self._rate = rate
        for group, ratio in zip(self._optimizer.param_groups, self._ratios, strict=True):
            if isinstance(group["lr"], Tensor):
                # Compiled optimizers hold on to the tensor itself.
                group["lr"].fill_(rate * ratio)
            else:
                group["lr"] = rate * ratio


@torch.no_grad()
def _put(values: Sequence[Tensor], into: Sequence[Tensor]) -> None:
    for tensor, value in zip(into, values, strict=True):
        tensor.copy_(value)


def _joined(gradients: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> Tensor:
    """Return gradients as one flat vector; a parameter without one has a gradient of zero."""
    pairs = zip(gradients, parameters, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).reshape(-1) for g, p in pairs])


def _ratios(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> list[float]:
    """Return each group's rate over the first group's; refuse another model's optimizer."""
    known = {id(p) for p in parameters}
    held = [p for group in optimizer.param_groups for p in group["params"]]
    foreign = sum(id(p) not in known and p.requires_grad for p in held)
    rule = f"holds {foreign} trainable tensors that are not parameters of `model`"
    remedy = "make the optimizer from model.parameters()"
    require(foreign == 0, _CALL, "optimizer", type(optimizer).__name__, rule, remedy)
    rates = [float(group.get("lr", 0.0)) for group in optimizer.param_groups]
    rule = "must have a learning rate above 0 in its first parameter group"
    remedy = "give its groups rates with the ratios that you want; `rate` scales them"
    require(rates[0] > 0, _CALL, "optimizer", rates, rule, remedy)
    return [rate / rates[0] for rate in rates]
