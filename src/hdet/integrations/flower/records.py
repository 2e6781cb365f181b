"""The records that travel between server and clients: their keys, and tensors of them.

    config     "lr", "server-round", "proximal-mu" (FedProx), "fedhyper-..." (FedHyper-CL)
    arrays     the model; and with FedHyper-CL "previous-update", its trainable entries
    metrics    "num-examples", "train-loss", "squared-loss", "duration", "update-norm",
               "partition-id" (-1 if the node has none), if given "label-counts", and
               "selection-share", as sent in the config

The names in Flower's own apps, such as "train_loss", are understood as well.
"""

import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message
from torch import Tensor

PREVIOUS_UPDATE = "previous-update"
PARTITION = "partition-id"
LABELS = "label-counts"
SHARE = "selection-share"
# FedHyper-CL's bounds in a message's config; the first tells a client to move its rate.
GAMMA, GROWTH, BETA_MAX = "fedhyper-gamma", "fedhyper-growth", "fedhyper-beta-max"
# One number under several names, hdet's own first.
LOSSES = ("train-loss", "train_loss", "loss")
EXAMPLES = ("num-examples", "num_examples")
RATES = ("lr", "learning-rate", "learning_rate")
# How the names of batch normalisation's statistics end, which are counted and not trained.
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")

Trainable = Callable[[str], bool] | Collection[str] | None

log = logging.getLogger("flwr")  # Flower's own, so that all lines of a run are in one log


def metrics_of(reply: Message) -> dict[str, Any]:
    """Return the contents of the reply's only MetricRecord; nothing if it has none."""
    return dict(next(iter(reply.content.metric_records.values()), {}))


def model_of(reply: Message) -> ArrayRecord:
    """Return the reply's only ArrayRecord."""
    return next(iter(reply.content.array_records.values()))


def is_metric(value: object) -> TypeGuard[float]:
    """Return whether a metric is one plain number, and not a boolean."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def first_of(metrics: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """Return the first of several names under which there is a number."""
    return next((name for name in names if is_metric(metrics.get(name))), None)


def partition_of(reply: Message) -> int | None:
    """Return the partition that a reply names, or None."""
    number = metrics_of(reply).get(PARTITION, -1) if reply.has_content() else -1
    whole = isinstance(number, int) and not isinstance(number, bool)
    return number if whole and number >= 0 else None


def listed(names: Sequence[object]) -> str:
    """Return names as a list of a few, and how many more there are."""
    few = repr(list(names[:4]))
    return few if len(names) <= 4 else f"{few} and {len(names) - 4} more"


def clipped(text: str) -> str:
    """Return the beginning of a text, on one line."""
    text = " ".join(text.split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def describe(reply: Message) -> str:
    """Return a node's id, and its partition if it named one."""
    partition = partition_of(reply)
    node = str(reply.metadata.src_node_id)
    return node if partition is None else f"{node} (partition {partition})"


def tensor(array: Array) -> Tensor:
    """Return an entry of a record as a contiguous tensor with memory of its own."""
    return torch.from_numpy(np.array(array.numpy(), order="C"))


def flat(arrays: ArrayRecord, names: list[str]) -> Tensor:
    """Return the trainable entries as one vector."""
    return torch.cat([tensor(arrays[name]).reshape(-1) for name in names])


def unflatten(vector: Tensor, arrays: ArrayRecord, names: list[str]) -> ArrayRecord:
    """Return a flat vector as a record of the trainable entries."""
    shapes = [tuple(arrays[n].shape) for n in names]
    sizes = [math.prod(shape) for shape in shapes]
    if len(vector) != sum(sizes):
        raise ValueError(
            f"the last update has {len(vector)} numbers, and the model's trainable entries "
            f"have {sum(sizes)}: load the state of a run with this model and this `trainable`."
        )
    parts = zip(names, vector.split(sizes), shapes, strict=True)
    return ArrayRecord({n: Array(piece.reshape(s).numpy()) for n, piece, s in parts})


def rate_names(config: ConfigRecord, named: str | None) -> list[str]:
    """Return the names of the clients' rate: `named` or those in the config, and "lr"."""
    found = [named] if named else [n for n in RATES if n in config]
    return list(dict.fromkeys([*found, "lr"]))


def only_config(message: Message) -> ConfigRecord:
    """Return a message's only ConfigRecord; a `ValueError` if it has none or several."""
    records = list(message.content.config_records.values())
    if len(records) != 1:
        raise ValueError(
            f"a train message must hold one ConfigRecord, for the rates: the wrapped strategy "
            f"sends {len(records)}. Put its settings into the config that it is given."
        )
    return records[0]
