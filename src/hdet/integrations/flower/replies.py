"""Which replies of a round fit: each is checked for itself, and then against the others.

The idea: Flower ends the run at a reply that does not fit; here that reply is left out, with
its reason, and the round goes on. What must hold:

    by itself         it answers a message of this round, the first of its node; one model with
                      the entries, shapes and types that were sent, every number finite; one
                      record of finite metrics, with a weight above 0
    beside others     the metrics that most others sent, since Flower averages what all have;
                      an update that is not out of all proportion

*Out of all proportion.* Weights of 1e30 are finite, and one such reply ends a run. Honest
updates differ a lot, too: a client with a thousand times the data makes a thousand times the
steps. So an update is left out if it is longer than 1000 times the median of the others', the
median of the last round counted as one of them, and at the same time longer than 10 times the
model (or than a model of ones, if that is longer); and, whatever the others sent, if it is
longer than 1e10 times that. This is for accidents. Against clients that mean harm there are
Flower's Krum, Bulyan, FedMedian and FedTrimmedAvg, which can be wrapped.
"""

from bisect import insort
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict

from ...state import Entries
from .metrics import check_metrics, form_of, translated
from .model import GlobalModel, Unfit, in_types
from .records import clipped, describe, log, partition_of

# How often the median update an update may be long; how often the model; and in any case.
_TIMES_OTHERS, _TIMES_MODEL, _TIMES_ANY = 1e3, 10.0, 1e10

Record = TypeVar("Record", ArrayRecord, MetricRecord)
Choice = TypeVar("Choice", bound=Hashable)


@dataclass
class Usual:
    """What is usual in this run, for rounds in which the replies are too few to say.

    Attributes:
        form: the names of the metrics; None before anything came.
        length: the median length of the last round's updates; None before anything came.
        understood: names of metrics that came under another one, and which.
    """

    form: tuple[str, ...] | None = None
    length: float | None = None
    understood: dict[str, str] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        """Return plain values."""
        form = None if self.form is None else list(self.form)
        return {"form": form, "length": self.length}

    @classmethod
    def parsed(cls, entries: Entries) -> "Usual":
        """Return what `state_dict` was of; a `ValueError` if it is damaged."""
        names = entries.optional("form", entries.items)
        if names is not None and not all(isinstance(name, str) for name in names):
            entries.refuse("form", names, "must be a list of names")
        length = entries.optional("length", entries.number, low=0.0)
        return cls(None if names is None else tuple(names), length)


class Sifted(NamedTuple):
    """The replies of a round.

    Attributes:
        good: to be aggregated, in the order of their partitions: floating-point sums depend on
            their order, and the order of replies on the network.
        errors: of clients that failed.
        left_out: why the others are left out, by node.
    """

    good: list[Message]
    errors: list[Message]
    left_out: dict[int, Unfit]


@dataclass
class _Candidate:
    """A reply that fits by itself, and its records."""

    reply: Message
    metrics: MetricRecord
    arrays: ArrayRecord
    length: float


def sift(
    replies: Iterable[Message],
    model: GlobalModel | None,
    wanted: Sequence[str],
    usual: Usual,
    asked: Collection[int] | None,
) -> Sifted:
    """Return the replies that fit; of each of the others, say what is wrong.

    Args:
        replies: as Flower hands them over. Those that fit may get content that is in order.
        model: that was sent; None if replies bring none, as those of an evaluation.
        wanted: metrics that the strategy within must find; the first weighs a reply.
        usual: what is usual; updated.
        asked: the nodes that were sent a message; None if that is not known.
    """
    replies = sorted(replies, key=_place)
    left_out: dict[int, Unfit] = {}

    def leave_out(reply: Message, fault: Unfit) -> None:
        left_out[reply.metadata.src_node_id] = fault
        log.warning("node %s %s; its reply is left out of this round", describe(reply), fault)

    def kept(these: list[_Candidate], faults: list[Unfit | None]) -> list[_Candidate]:
        pairs = list(zip(these, faults, strict=True))
        for candidate, fault in pairs:
            if fault is not None:
                leave_out(candidate.reply, fault)
        return [candidate for candidate, fault in pairs if fault is None]

    errors, fitting, heard = [], [], set()
    for reply in replies:
        node = reply.metadata.src_node_id
        try:
            if asked is not None and node not in asked:
                raise Unfit("was not asked in this round")
            if reply.has_error():
                errors.append(reply)
                continue
            if node in heard:
                raise Unfit("has replied already")
            fitting.append(_candidate(reply, model, wanted, usual))
            heard.add(node)
        except Unfit as fault:
            leave_out(reply, fault)
    fitting = kept(fitting, _odd_forms(fitting, usual))
    if model is not None:
        fitting = kept(fitting, _odd_types(fitting, model))
        fitting = kept(fitting, _odd_lengths(fitting, model, usual))
    _remember(fitting, usual)
    _put_in_order(fitting, model)
    return Sifted([candidate.reply for candidate in fitting], errors, left_out)


def _candidate(
    reply: Message, model: GlobalModel | None, wanted: Sequence[str], usual: Usual
) -> _Candidate:
    """Check a reply by itself.

    Raises:
        Unfit: saying why it does not fit.
    """
    try:
        if not reply.has_content():
            raise Unfit("sent nothing", True)
        arrays, length = ArrayRecord(), 0.0
        if model is not None:
            arrays, length = model.check(_only(reply.content.array_records, "ArrayRecord"))
        metrics = _only(reply.content.metric_records, "MetricRecord")
        metrics, understood = translated(metrics, wanted)
        check_metrics(metrics, wanted[0])
    except Unfit:
        raise
    except Exception as fault:
        # Whatever else a client may think of: its reply is no reason to end the run.
        why = clipped(f"{type(fault).__name__}: {fault}")
        raise Unfit(f"sent what cannot be read ({why})") from fault
    usual.understood.update(understood)
    return _Candidate(reply, metrics, arrays, length)


def _only(records: Mapping[str, Record], kind: str) -> Record:
    if len(records) != 1:
        raise Unfit(f"sent {len(records)} {kind}s, and must send one", True)
    return next(iter(records.values()))


def _odd_forms(candidates: list[_Candidate], usual: Usual) -> list[Unfit | None]:
    """Return who sent other metrics than most others; a tie is as in the rounds before."""
    forms = [form_of(candidate.metrics) for candidate in candidates]
    form = _most_common(forms, usual.form)
    return [
        None
        if own == form
        else Unfit(f"sent the metrics {list(own)}, and most others sent {list(form or ())}")
        for own in forms
    ]


def _odd_types(candidates: list[_Candidate], model: GlobalModel) -> list[Unfit | None]:
    """Bring models into the precision of most others; return which cannot be."""
    types = [_types(candidate.arrays) for candidate in candidates]
    usual = _most_common(types, _types(model.arrays))
    faults: list[Unfit | None] = []
    for candidate, own in zip(candidates, types, strict=True):
        try:
            if usual is not None and own != usual:
                candidate.arrays = in_types(candidate.arrays, usual)
            faults.append(None)
        except Unfit as fault:
            faults.append(fault)
    return faults


def _odd_lengths(
    candidates: list[_Candidate], model: GlobalModel, usual: Usual
) -> list[Unfit | None]:
    """Return whose updates are out of all proportion; see above."""
    lengths = sorted(candidate.length for candidate in candidates)
    if usual.length is not None:
        insort(lengths, usual.length)
    faults: list[Unfit | None] = []
    for candidate in candidates:
        limit, beside = _TIMES_ANY * model.scale, ""
        if len(lengths) > 1:
            others = _median_of_others(lengths, candidate.length)
            limit = min(limit, max(_TIMES_OTHERS * others, _TIMES_MODEL * model.scale))
            beside = f", and the median of the others {others:.3g}"
        faults.append(
            None
            if candidate.length <= limit
            else Unfit(
                f"sent an update of length {candidate.length:.3g}, out of all proportion: the "
                f"model is {model.scale:.3g} long{beside}"
            )
        )
    return faults


def _median_of_others(ordered: Sequence[float], own: float) -> float:
    """Return the median without one's own; of two, the lower: the other may be a fault too."""
    middle = (len(ordered) - 2) // 2
    return ordered[middle + 1] if own <= ordered[middle] else ordered[middle]


def _most_common(values: Sequence[Choice], in_a_tie: Choice | None) -> Choice | None:
    """Return what is most often among values; None if there are none."""
    counts = Counter(values)
    most = [value for value, count in counts.items() if count == max(counts.values())]
    return in_a_tie if in_a_tie in most else next(iter(most), None)


def _remember(fitting: list[_Candidate], usual: Usual) -> None:
    if not fitting:
        return
    if usual.form is None or len(fitting) > 1:
        usual.form = form_of(fitting[0].metrics)
    lengths = sorted(candidate.length for candidate in fitting)
    usual.length = lengths[(len(lengths) - 1) // 2]


def _put_in_order(fitting: list[_Candidate], model: GlobalModel | None) -> None:
    """Give each reply its records as they are now, under the names that most others use."""
    kinds = (MetricRecord,) if model is None else (MetricRecord, ArrayRecord)
    keys = _most_common([_keys(candidate.reply, kinds) for candidate in fitting], None)
    for candidate in fitting:
        content = candidate.reply.content
        named = dict(zip(keys or (), (candidate.metrics, candidate.arrays), strict=False))
        more = {
            name: record
            for name, record in content.items()
            if not isinstance(record, kinds) and name not in named
        }
        candidate.reply.content = RecordDict({**named, **more})


def _keys(reply: Message, kinds: Sequence[type]) -> tuple[str, ...]:
    """Return the name of the only record of each kind."""
    records = reply.content.items()
    return tuple(next(k for k, r in records if isinstance(r, kind)) for kind in kinds)


def _types(record: ArrayRecord) -> tuple[str, ...]:
    return tuple(array.dtype for array in record.values())


def _place(reply: Message) -> tuple[int, int]:
    """Return where a reply stands in the order of sums: by partition, else by node."""
    partition, node = partition_of(reply), reply.metadata.src_node_id
    return (1, node) if partition is None else (0, partition)
