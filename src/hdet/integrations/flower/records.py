"""The records that travel between server and clients: keys, checks, and tensors of them.

    config     "lr", "server-round", "proximal-mu" (FedProx), "fedhyper-..." (FedHyper-CL)
    arrays     the model; and with FedHyper-CL "previous-update", its trainable entries
    metrics    "num-examples", "train-loss", "squared-loss", "duration", "update-norm",
               "partition-id" (-1 where the node has none), if given "label-counts", and
               "selection-share", as sent in the config

Flower takes one ArrayRecord and one MetricRecord from each client, with the same keys from
all, and stops the run at anything else. Here each reply is checked for itself.
"""

import logging
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord

PREVIOUS_UPDATE = "previous-update"
PARTITION = "partition-id"
LABELS = "label-counts"
SHARE = "selection-share"
# FedHyper-CL's bounds in a message's config; the first tells a client to move its rate.
GAMMA, GROWTH, BETA_MAX = "fedhyper-gamma", "fedhyper-growth", "fedhyper-beta-max"
# What a name ends with that batch normalisation counts and does not train.
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")

Trainable = Callable[[str], bool] | Collection[str] | None

log = logging.getLogger("flwr")  # Flower's own, so that all lines of a run stand together


def sift(
    replies: Iterable[Message], arrays: ArrayRecord, weight_key: str
) -> tuple[list[Message], list[Message]]:
    """Return the replies to aggregate, and the errors; of the others, say what is wrong.

    Those to aggregate come in the order of their partitions: floating-point sums depend on
    their order, and the order of replies on the network.

    Args:
        replies: as Flower hands them over.
        arrays: the model that was sent: its entries and shapes are what must come back.
        weight_key: the metric that weighs a reply.
    """
    replies = list(replies)
    errors = [reply for reply in replies if reply.has_error()]
    filled = sorted((reply for reply in replies if not reply.has_error()), key=_place)
    forms = Counter(
        _form(record) for r in filled for record in r.content.metric_records.values()
    )
    usual = forms.most_common(1)[0][0] if forms else frozenset()
    good = []
    for reply in filled:
        fault = _arrays_fault(reply, arrays) or _metrics_fault(reply, usual, weight_key)
        if fault is None:
            good.append(reply)
        else:
            log.warning(
                "node %s %s; its reply is left out of this round", describe(reply), fault
            )
    return good, errors


def _arrays_fault(reply: Message, arrays: ArrayRecord) -> str | None:
    records = list(reply.content.array_records.values())
    if len(records) != 1:
        return f"sent {len(records)} ArrayRecords, and must send one"
    if set(records[0]) != set(arrays):
        lacking, more = sorted(set(arrays) - set(records[0])), set(records[0]) - set(arrays)
        return f"sent a model that lacks {lacking} and has {sorted(more)} besides"
    for name, array in records[0].items():
        if tuple(array.shape) != tuple(arrays[name].shape):
            return f"sent {name!r} as {tuple(array.shape)}, not {tuple(arrays[name].shape)}"
        if not np.isfinite(array.numpy()).all():
            return f"sent {name!r} with numbers that are not finite"
    return None


def _metrics_fault(reply: Message, usual: frozenset[str], weight_key: str) -> str | None:
    records = list(reply.content.metric_records.values())
    if len(records) != 1:
        return f"sent {len(records)} MetricRecords, and must send one"
    weight = records[0].get(weight_key)
    if not isinstance(weight, int | float) or not 0 < weight < math.inf:
        return f"sent {weight_key!r} = {weight}, which must be a number above 0"
    if (form := _form(records[0])) != usual:
        return f"sent the metrics {sorted(form)}, and most others sent {sorted(usual)}"
    return None


def _form(record: MetricRecord) -> frozenset[str]:
    """Return the names of metrics; of lists, with their length."""
    return frozenset(
        f"{name}[{len(value)}]" if isinstance(value, list) else name
        for name, value in record.items()
    )


def metrics_of(reply: Message) -> dict[str, Any]:
    """Return what the reply's only MetricRecord holds; nothing if it has none."""
    return dict(next(iter(reply.content.metric_records.values()), {}))


def partition_of(reply: Message) -> int | None:
    """Return the partition that a reply names, or None."""
    number = metrics_of(reply).get(PARTITION, -1) if reply.has_content() else -1
    return number if isinstance(number, int) and number >= 0 else None


def _place(reply: Message) -> tuple[int, int]:
    """Return where a reply stands in the order of sums: by partition, else by node."""
    partition = partition_of(reply)
    return (1, reply.metadata.src_node_id) if partition is None else (0, partition)


def describe(reply: Message) -> str:
    """Return a node in words: its id, and its partition if it named one."""
    partition = partition_of(reply)
    node = str(reply.metadata.src_node_id)
    return node if partition is None else f"{node} (partition {partition})"


def trainable_names(arrays: ArrayRecord, trainable: Trainable, call: str) -> list[str]:
    """Return the entries that rates apply to, in the model's order.

    Args:
        arrays: the model.
        trainable: names, or a predicate of the name; None for all that are floating point
            and no running statistics of batch normalisation.
        call: the public name that was called, for errors.

    Raises:
        ValueError: if a name is unknown or not floating point, or nothing remains.
    """
    floating = [n for n, a in arrays.items() if np.issubdtype(np.dtype(a.dtype), np.floating)]
    if trainable is None:
        names = [n for n in floating if n.rpartition(".")[2] not in BUFFERS]
    elif callable(trainable):
        names = [n for n in floating if trainable(n)]
    else:
        names = [n for n in floating if n in trainable]
        if strangers := sorted(set(trainable) - set(names)):
            raise ValueError(
                f"`{call}(trainable=...)` names {strangers}, which are no floating-point "
                f"entries of the model: it has {sorted(floating)}."
            )
    if not names:
        raise ValueError(
            f"`{call}(trainable={trainable!r})` leaves nothing to train of {sorted(arrays)}: "
            f"name the entries that the clients' optimizers change."
        )
    return names


def tensor(array: Array) -> torch.Tensor:
    """Return an entry of a record as a tensor of its own."""
    return torch.from_numpy(np.array(array.numpy()))


def flat(arrays: ArrayRecord, names: list[str]) -> torch.Tensor:
    """Return the trainable entries as one vector."""
    return torch.cat([tensor(arrays[name]).reshape(-1) for name in names])


def model_of(reply: Message) -> ArrayRecord:
    """Return the reply's only ArrayRecord."""
    return next(iter(reply.content.array_records.values()))


def unflatten(vector: torch.Tensor, arrays: ArrayRecord, names: list[str]) -> ArrayRecord:
    """Return a flat vector as a record of the trainable entries.

    Raises:
        ValueError: if it is not as long as they are together.
    """
    shapes = [tuple(arrays[n].shape) for n in names]
    sizes = [math.prod(shape) for shape in shapes]
    if len(vector) != sum(sizes):
        raise ValueError(
            f"the last update has {len(vector)} numbers, and the model's trainable entries "
            f"{sum(sizes)}: load the state of a run with this model and this `trainable`."
        )
    pieces = vector.split(sizes)
    parts = zip(names, pieces, shapes, strict=True)
    return ArrayRecord({n: Array(piece.reshape(s).numpy()) for n, piece, s in parts})


def only_config(message: Message) -> ConfigRecord:
    """Return a message's only ConfigRecord.

    Raises:
        ValueError: if it has none or several.
    """
    records = list(message.content.config_records.values())
    if len(records) != 1:
        raise ValueError(
            f"a train message must hold one ConfigRecord, for the rates: the strategy within "
            f"sends {len(records)}. Put its settings into the config that it is given."
        )
    return records[0]
