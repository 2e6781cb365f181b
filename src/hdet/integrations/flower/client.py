"""The client's side of `hdet.integrations.flower`: a message in, a reply out.

`local_training` reads a train message, `reply` and `answer_query` write the answers, so that
all clients send the same keys, those of `records`. docs/guides/flower.md has a whole app.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from torch import Tensor, nn

from ...federated import ClientLocalRate
from ...federated.local_training import LocalTraining
from ...federated.selection import ClientReport
from .records import (
    BETA_MAX,
    GAMMA,
    GROWTH,
    LABELS,
    PARTITION,
    PREVIOUS_UPDATE,
    SHARE,
    listed,
    log,
    only_config,
    tensor,
)


def local_training(
    message: Message,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: int,
    *,
    max_norm: float | None = None,
) -> LocalTraining:
    """Load the global model, and return this round's `LocalTraining` as the message sets it.

    Rate, proximal term and FedHyper-CL come from the server's strategies by the message, so
    that a client need not know them. Local.

    Args:
        message: of type train.
        model: loads the message's weights, entry by entry. They may be a part of it, such as
            adapters; the rest stays as it is, and `reply` sends back that part alone.
        optimizer: over `model`'s parameters; its rates are replaced, their ratios are kept.
        steps: K, the number of steps that will be made, at least 1.
        max_norm: gradients are clipped to this norm; None is no clipping.

    Raises:
        ValueError: if the message lacks a rate, or `model` lacks one of its entries.
    """
    config: dict[str, Any] = dict(only_config(message))
    rate = config.get("lr")
    if not isinstance(rate, int | float):
        raise ValueError(
            f"`local_training(message=...)` must have the rate as config['lr']: it has "
            f"{sorted(config)}. Wrap the server's strategy in FedHyper or Decay, or pass "
            f"train_config=ConfigRecord({{'lr': 0.01}}) to its start(...)."
        )
    _load(message, model)
    client_rate = None
    if GAMMA in config:
        client_rate = ClientLocalRate(
            rate,
            steps,
            config[GAMMA],
            _previous_update(message, model),
            growth=config[GROWTH],
            beta_max=config.get(BETA_MAX),
        )
    return LocalTraining(
        model,
        optimizer,
        rate,
        client_rate=client_rate,
        proximal_mu=config.get("proximal-mu", 0.0),
        max_norm=max_norm,
    )


def reply(
    message: Message,
    context: Context,
    model: nn.Module,
    report: ClientReport,
    metrics: Mapping[str, float] | None = None,
) -> Message:
    """Return the reply to a train message: the model, and the report as metrics. Local.

    Args:
        message: to which this is the reply.
        context: of this node; its partition, if it has one, names the client.
        model: after training; the entries that were in the message are sent.
        report: of `LocalTraining.report`.
        metrics: more numbers, under the same names on every client; the server averages them.
    """
    record = _metrics(context, report, "train-loss")
    record.update(metrics or {})
    config: dict[str, Any] = dict(only_config(message))
    if SHARE in config:
        record[SHARE] = config[SHARE]
    content = RecordDict({"arrays": _answer_of(message, model), "metrics": record})
    return Message(content, reply_to=message)


def answer_query(
    message: Message,
    context: Context,
    probe: Callable[[Mapping[str, Tensor], int | None], ClientReport],
) -> Message:
    """Return the answer to a query of `SelectClients`. Local.

    The server asks each client once for its name, without a model, and asks the candidates of
    the selector for their loss.

    Args:
        message: of type "query.selection".
        context: of this node.
        probe: called as probe(weights, batches) if the message has weights, a state dict; it
            returns their loss on this client's data, on as many mini-batches as the selector
            wants, or on all of the data if `batches` is None.
    """
    if message.content.array_records:
        batches = only_config(message).get("batches")
        batches = batches if isinstance(batches, int) else None
        record = _metrics(context, probe(_weights(message), batches), "loss")
    else:
        record = MetricRecord({PARTITION: _partition(context)})
    return Message(RecordDict({"metrics": record}), reply_to=message)


def _metrics(context: Context, report: ClientReport, loss: str) -> MetricRecord:
    """Return a report as a record, without the entries that are None."""
    numbers: dict[str, Any] = {
        "num-examples": report.num_examples,
        loss: report.loss,
        "squared-loss": report.squared_loss,
        "duration": report.duration,
        "update-norm": report.update_norm,
        PARTITION: _partition(context),
    }
    if report.label_counts is not None:
        numbers[LABELS] = [float(count) for count in report.label_counts]
    return MetricRecord({name: n for name, n in numbers.items() if n is not None})


def _partition(context: Context) -> int:
    return int(context.node_config.get(PARTITION, -1))


def _weights(message: Message) -> dict[str, Tensor]:
    records = message.content.array_records
    models = [record for name, record in records.items() if name != PREVIOUS_UPDATE]
    if len(models) != 1:
        raise ValueError(
            f"a message must have one model: this one has {len(models)} ArrayRecords, "
            f"{sorted(records)}."
        )
    return {name: tensor(array) for name, array in models[0].items()}


def _answer_of(message: Message, model: nn.Module) -> ArrayRecord:
    """Return the model's entries that were in the message; all if it had none."""
    state = model.state_dict()
    if message.content.array_records:
        state = {name: state[name] for name in _weights(message)}
    return ArrayRecord(state)


def _load(message: Message, model: nn.Module) -> None:
    """Load the message's weights; a `ValueError` if `model` lacks an entry of them."""
    weights, own = _weights(message), model.state_dict()
    if unknown := sorted(weights.keys() - own.keys()):
        raise ValueError(
            f"the message has {listed(unknown)}, which `model` has not: it has "
            f"{listed(sorted(own))}. Start server and clients from the same model."
        )
    kept = {name for name, p in model.named_parameters() if p.requires_grad} - weights.keys()
    if kept:
        log.warning("local_training: the message has no %s, which are trained here all the "
                    "same: they begin each round as `model` was made, and are not sent back",
                    listed(sorted(kept)))  # fmt: skip
    model.load_state_dict(weights, strict=False)


def _previous_update(message: Message, model: nn.Module) -> Tensor | None:
    """Return the last mean update, flat, in the order of the gradients."""
    record = message.content.array_records.get(PREVIOUS_UPDATE)
    if record is None:
        return None
    # The server sends no update of entries that it does not scale.
    pieces = [
        tensor(record[name]).to(p) if name in record else torch.zeros_like(p)
        for name, p in model.named_parameters()
        if p.requires_grad
    ]
    return torch.cat([piece.reshape(-1) for piece in pieces])
