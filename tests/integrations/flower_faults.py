"""Clients that answer anything but what they should, and a grid on which they do.

Each fault changes a reply on its way to the server. What must become of it is known: it is
left out, or it is used all the same, or it is one of several metrics' forms, of which the most
common one counts.
"""

import io
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np
import torch
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from torch import Tensor, nn

from hdet.federated.selection import ClientReport
from hdet.integrations.flower import answer_query, local_training, reply
from hdet.seeding import generator

from .flower_clients import data
from .local_grid import LocalGrid, node_id

STEPS, RATE, CLIENTS = 2, 0.05, 6


class Mixed(nn.Module):
    """Weights, running statistics, counts, a mask of -inf, booleans, and a large number."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 1)
        self.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))
        self.register_buffer("kept", torch.tensor([True, False, True]))
        self.register_buffer("quantised", torch.arange(5, dtype=torch.uint8))
        self.register_buffer("drawn", torch.tensor(2**62 + 1))
        source = generator(0, "weights")
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=source) / 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x)).tanh())


def mixed_app() -> ClientApp:
    """Return an app that trains and evaluates `Mixed`."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        net = Mixed()
        x, y = data(int(context.node_config["partition-id"]), torch.float32)
        optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
        local = local_training(message, net, optimizer, STEPS)
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = (net(x) - y).square().mean()
            (loss + local.proximal()).backward()
            local.step(loss)
        return reply(message, context, net, local.report(len(x), [len(x), 1]))

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        metrics = MetricRecord({"eval_loss": 0.5, "eval_acc": 0.25, "num-examples": 8})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    @app.query("selection")
    def query(message: Message, context: Context) -> Message:
        return answer_query(message, context, lambda weights, batches: ClientReport(0.5, 8))

    return app


# Faults of models.


def entries(answer: Message) -> dict[str, Array]:
    return dict(answer.content.array_records["arrays"].items())


def put(answer: Message, **arrays: Array) -> None:
    answer.content["arrays"] = ArrayRecord({**entries(answer), **arrays})


def every(answer: Message, change: Callable[[np.ndarray], np.ndarray]) -> None:
    answer.content["arrays"] = ArrayRecord(
        {name: Array(change(array.numpy())) for name, array in entries(answer).items()}
    )


def bytes_of(array: np.ndarray) -> bytes:
    return Array(array).data


def of_bytes(answer: Message, data: bytes, stype: str = "numpy.ndarray") -> None:
    array = entries(answer)["first.weight"]
    put(
        answer,
        **{"first.weight": Array(dtype="float32", shape=array.shape, stype=stype, data=data)},
    )


def pickled() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.full((6, 4), {"any": "object"}, dtype=object), allow_pickle=True)
    return buffer.getvalue()


def zipped() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, np.zeros((6, 4), np.float32))
    return buffer.getvalue()


def weights(answer: Message, value: float) -> None:
    every(answer, lambda a: np.full_like(a, value) if a.dtype == np.float32 else a)


def metrics(answer: Message) -> dict:
    return dict(next(iter(answer.content.metric_records.values())))


def tell(answer: Message, **told: object) -> None:
    """Change metrics; past Flower's own check, as another client's software could."""
    record = MetricRecord()
    record.__dict__["_data"] = {
        **metrics(answer),
        **{name.replace("__", "-"): value for name, value in told.items()},
    }
    answer.content["metrics"] = record


def drop(answer: Message, key: str) -> None:
    del answer.content[key]


def reorder(answer: Message) -> None:
    answer.content["arrays"] = ArrayRecord(dict(reversed(entries(answer).items())))


def under_other_names(answer: Message) -> None:
    content = answer.content
    answer.content = RecordDict({"told": content["metrics"], "weights": content["arrays"]})


def without(answer: Message, name: str) -> None:
    answer.content["arrays"] = ArrayRecord(
        {n: a for n, a in entries(answer).items() if n != name}
    )


def zeros(*shape: int, dtype: type = np.float32) -> Array:
    return Array(np.zeros(shape, dtype))


Fault = Callable[[Message], None]
LEFT_OUT: dict[str, Fault] = {
    "NaN": lambda a: weights(a, math.nan),
    "infinite weights": lambda a: weights(a, math.inf),
    "weights of 1e30": lambda a: weights(a, 1e30),
    "weights of 1e12": lambda a: weights(a, 1e12),
    "float64 of 1e200": lambda a: every(a, lambda x: np.full(x.shape, 1e200)),
    "other shape": lambda a: put(a, **{"first.bias": zeros(7)}),
    "no dimension": lambda a: put(a, **{"first.bias": zeros()}),
    "one row more": lambda a: put(a, **{"first.weight": zeros(1, 6, 4)}),
    "int64": lambda a: every(a, lambda x: np.zeros(x.shape, np.int64)),
    "complex": lambda a: every(a, lambda x: x.astype(np.complex64)),
    "text": lambda a: every(a, lambda x: np.full(x.shape, "x")),
    "boolean": lambda a: every(a, lambda x: np.ones(x.shape, bool)),
    "dates": lambda a: every(a, lambda x: np.full(x.shape, "2020", "datetime64[D]")),
    "counts as floats": lambda a: put(a, kept=zeros(3)),
    "wider counts": lambda a: put(a, quantised=zeros(5, dtype=np.int64)),
    "mask of ones": lambda a: put(a, mask=Array(np.ones((3, 3), np.float32))),
    "mask of inf": lambda a: put(a, mask=Array(np.full((3, 3), np.inf, np.float32))),
    "garbage": lambda a: of_bytes(a, b"garbage"),
    "no bytes": lambda a: of_bytes(a, b""),
    "truncated": lambda a: of_bytes(a, bytes_of(np.zeros((6, 4), np.float32))[:-8]),
    "other shape than said": lambda a: of_bytes(a, bytes_of(np.zeros((2, 2), np.float32))),
    "other type than said": lambda a: of_bytes(a, bytes_of(np.zeros((6, 4)))),
    "objects": lambda a: of_bytes(a, pickled()),
    "an archive": lambda a: of_bytes(a, zipped()),
    "unknown stype": lambda a: of_bytes(a, bytes_of(np.zeros((6, 4), np.float32)), "torch"),
    "no entries": lambda a: a.content.__setitem__("arrays", ArrayRecord()),
    "an entry less": lambda a: without(a, "norm.num_batches_tracked"),
    "an entry more": lambda a: put(a, extra=zeros(9)),
    "no model": lambda a: drop(a, "arrays"),
    "two models": lambda a: a.content.__setitem__("more", ArrayRecord(entries(a))),
    "nothing": lambda a: setattr(a, "content", RecordDict()),
}
OF_METRICS: dict[str, Fault] = {
    "no metrics": lambda a: drop(a, "metrics"),
    "two metric records": lambda a: a.content.__setitem__("more", MetricRecord({"x": 1.0})),
    "no weight": lambda a: a.content.__setitem__("metrics", MetricRecord({"x": 1.0})),
    "negative weight": lambda a: tell(a, num__examples=-5),
    "weight of zero": lambda a: tell(a, num__examples=0),
    "weight of NaN": lambda a: tell(a, num__examples=math.nan),
    "infinite weight": lambda a: tell(a, num__examples=math.inf),
    "weight of 1e308": lambda a: tell(a, num__examples=1e308),
    "weight beyond floats": lambda a: tell(a, num__examples=10**400),
    "list of weights": lambda a: tell(a, num__examples=[1.0, 2.0]),
    "text for a weight": lambda a: tell(a, num__examples="ten"),
    "True for a weight": lambda a: tell(a, num__examples=True),
    "NaN in a metric": lambda a: tell(a, eval_loss=math.nan, train__loss=math.nan),
    "inf in a metric": lambda a: tell(a, eval_acc=-math.inf, duration=math.inf),
    "1e308 in a metric": lambda a: tell(a, eval_loss=1e308, train__loss=1e308),
    "text in a metric": lambda a: tell(a, eval_loss="bad", train__loss="bad"),
    "True in a metric": lambda a: tell(a, eval_loss=True, train__loss=True),
    "None in a metric": lambda a: tell(a, eval_loss=None, train__loss=None),
    "NaN in a list": lambda a: tell(a, mine=[1.0, math.nan]),
    "text in a list": lambda a: tell(a, mine=["a", "b"]),
    "a list in a list": lambda a: tell(a, mine=[[1.0], [2.0]]),
}
OF_REPORTS: dict[str, Fault] = {
    "list for a loss": lambda a: tell(a, train__loss=[1.0]),
    "list for a duration": lambda a: tell(a, duration=[1.0]),
    "negative duration": lambda a: tell(a, duration=-1.0),
    "list for a squared loss": lambda a: tell(a, squared__loss=[1.0]),
    "list for a norm": lambda a: tell(a, update__norm=[1.0]),
    "odd counts of labels": lambda a: tell(a, label__counts=[math.nan, -1.0]),
    "no labels at all": lambda a: tell(a, label__counts=[0.0, 0.0]),
    "negative counts": lambda a: tell(a, label__counts=[3.0, -1.0]),
    "a number for counts": lambda a: tell(a, label__counts=3.0),
    "list of partitions": lambda a: tell(a, partition__id=[1, 2]),
    "half a partition": lambda a: tell(a, partition__id=0.5),
}
LEFT_OUT |= OF_METRICS | OF_REPORTS
USED: dict[str, Fault] = {
    "float64": lambda a: every(a, lambda x: x.astype(float) if x.dtype == np.float32 else x),
    "big-endian": lambda a: every(a, lambda x: x.astype(x.dtype.newbyteorder(">"))),
    "other order": reorder,
    "other names of records": under_other_names,
    "a config": lambda a: a.content.__setitem__("c", ConfigRecord({"x": 1})),
    "another's partition": lambda a: tell(a, partition__id=0),
}
FORMS: dict[str, Fault] = {
    "one metric more": lambda a: tell(a, mine=1.0),
    "more counts": lambda a: tell(a, label__counts=[1.0, 2.0, 3.0]),
}
# What the grid does.
TWICE, STRANGER, FAILS, SILENT = "twice", "stranger", "fails", "silent"


class FaultyGrid(LocalGrid):
    """Nodes of which some answer as `LEFT_OUT`, `USED`, `FORMS` or otherwise say.

    Args:
        seed: of who does what.
        share: of the answers that are changed.
        kinds: of faults, by message type; default all.
    """

    def __init__(
        self, seed: int, share: float = 0.35, kinds: dict[str, list[str]] | None = None
    ) -> None:
        nodes = {node_id(partition): partition for partition in range(CLIENTS)}
        super().__init__(mixed_app(), nodes)
        self._random, self._share = random.Random(seed), share
        everything = [*LEFT_OUT, *USED, *FORMS, TWICE, STRANGER, FAILS, SILENT]
        others = [*OF_METRICS, TWICE, STRANGER, FAILS, SILENT]
        self._kinds = kinds or {"train": everything, "evaluate": others, "query": others}
        self.hit: Counter[str] = Counter()
        # Of each batch of train or evaluate messages: what became of each node's answer.
        self.batches: list[tuple[str, dict[int, str]]] = []

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        messages = list(messages)
        sent = {message.metadata.dst_node_id: message for message in messages}
        answers, became = [], {}
        for answer in super().send_and_receive(messages, timeout=timeout):
            node, kind = answer.metadata.src_node_id, answer.metadata.message_type
            became[node] = ""
            kinds = self._kinds.get(kind.partition(".")[0], [])
            if answer.has_content() and kinds and self._random.random() < self._share:
                what = self._random.choice(kinds)
                # With nothing before it, nobody could say which of two forms is the odd one.
                if what in FORMS and not self.batches:
                    what = TWICE
                became[node] = what
                self.hit[what] += 1
                answers += self._changed(answer, what, sent[node])
            else:
                answers.append(answer)
        if messages and messages[0].metadata.message_type in ("train", "evaluate"):
            self.batches.append((messages[0].metadata.message_type, became))
        return answers

    def _changed(self, answer: Message, what: str, sent: Message) -> list[Message]:
        if what == TWICE:
            return [answer, answer]
        if what == SILENT:
            return []
        if what == FAILS:
            return [Message(Error(2, "x" * 50), reply_to=sent)]
        if what == STRANGER:
            other = Message(RecordDict(dict(answer.content.items())), reply_to=sent)
            other.metadata.__dict__["_src_node_id"] = 5
            return [other, answer]
        ({**LEFT_OUT, **USED, **FORMS})[what](answer)
        return [answer]

    def expected(self, batch: int) -> set[int]:
        """Return the nodes whose replies of a batch must be used."""
        kind, became = self.batches[batch]
        out = {*(OF_METRICS if kind == "evaluate" else LEFT_OUT), FAILS, SILENT}
        forms = {node: w if w in FORMS else "" for node, w in became.items() if w not in out}
        counts = Counter(forms.values())
        most = [form for form, count in counts.items() if count == max(counts.values())]
        usual = "" if "" in most else next(iter(most), "")
        return {node for node, form in forms.items() if form == usual}
