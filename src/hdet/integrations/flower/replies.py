"""Which replies of a round are usable: each is checked by itself, and then beside the others.

Flower ends the run at an unusable reply; here that reply is left out, with its reason, and the
round goes on. What must hold:

    by itself         it answers a message of this round, the first of its node; one model with
                      the entries, shapes and types that were sent, every number finite; one
                      record of finite metrics, with a weight above 0
    beside others     the metrics that most others sent, since Flower averages those that all
                      sent; an update that is not disproportionate

*Disproportionate.* Weights of 1e30 are finite, and one such reply ruins a run. But honest
updates differ a lot: a client with a thousand times the data makes a thousand times the steps.
So an update is left out if its norm is more than 1000 times the median of the others' (the
median of the last round counts as one of them) and at the same time more than 10 times that of
the model (or of a model of ones, if that is larger); and in any case if it is more than 1e10
times that. This catches accidents. Against malicious clients wrap Flower's Krum, Bulyan,
FedMedian or FedTrimmedAvg.
"""

from bisect import insort
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from ...state import Entries
from .metrics import check_metrics, form_of, with_names
from .model import GlobalModel, Unfit, in_types
from .records import clipped, describe, log, partition_of

# The largest norm of an update, in medians of the others', in models, and in any case.
_TIMES_OTHERS, _TIMES_MODEL, _TIMES_ANY = 1e3, 10.0, 1e10
# So many replies that are all unusable for the same reason are no accident.
_ENOUGH = 5

Record = TypeVar("Record", ArrayRecord, MetricRecord)
Choice = TypeVar("Choice", bound=Hashable)


@dataclass
class Usual:
    """What is usual in this run, for rounds with too few replies to tell.

    Attributes:
        form: the names of the metrics; None before any reply.
        norm: the median norm of the last round's updates; None before any reply.
        aliases: names of metrics that came under another one, and which.
    """

    form: tuple[str, ...] | None = None
    norm: float | None = None
    aliases: dict[str, str] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        """Return plain values."""
        form = None if self.form is None else list(self.form)
        return {"form": form, "length": self.norm}

    def update(self, usable: "list[_Candidate]") -> None:
        """Update by the usable replies of a round."""
        if usable:
            if self.form is None or len(usable) > 1:
                self.form = form_of(usable[0].metrics)
            norms = sorted(candidate.norm for candidate in usable)
            self.norm = norms[(len(norms) - 1) // 2]

    @classmethod
    def parsed(cls, entries: Entries) -> "Usual":
        """Return what a `state_dict` was of; a `ValueError` if it is damaged."""
        names = entries.optional("form", entries.items)
        if names is not None and not all(isinstance(name, str) for name in names):
            entries.refuse("form", names, "must be a list of names")
        norm = entries.optional("length", entries.number, low=0.0)
        return cls(None if names is None else tuple(names), norm)


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


class HopelessRun:
    """Notices that nobody's reply was ever usable, for one reason that stays.

    It takes several nodes to say so, or all that are connected: one may be broken. Where few
    are asked in a round, that is after several rounds.
    """

    def __init__(self) -> None:
        # None once a reply was usable.
        self._refused: list[tuple[int, Unfit]] | None = []

    def check(self, name: str, sifted: Sifted, grid: Grid) -> None:
        """Raise a `RuntimeError` with the reason if further rounds would train nothing."""
        if sifted.good:
            self._refused = None
        if self._refused is None:
            return
        self._refused += sifted.left_out.items()
        reasons = {str(fault) for _, fault in self._refused}
        if len(reasons) != 1 or not all(fault.structural for _, fault in self._refused):
            return
        heard = len({node for node, _ in self._refused})
        there = len(list(grid.get_node_ids()))
        if heard >= min(_ENOUGH, there) or (heard > 2 and len(self._refused) >= _ENOUGH):
            raise RuntimeError(
                f"{name}: every reply since the start was left out, and further rounds would "
                f"train nothing: {heard} of {there} nodes {reasons.pop()}. Make the clients "
                f"send back the entries that they are sent, with metrics that are finite "
                f"numbers; `hdet.integrations.flower.reply` does."
            )


@dataclass
class _Candidate:
    """A reply that is usable by itself, and its records."""

    reply: Message
    metrics: MetricRecord
    arrays: ArrayRecord
    norm: float


def sift(
    replies: Iterable[Message],
    model: GlobalModel | None,
    wanted: Sequence[str],
    usual: Usual,
    asked: Collection[int] | None,
) -> Sifted:
    """Return the usable replies, in order, and log why each of the others is left out.

    Args:
        replies: as Flower hands them over.
        model: that was sent; None if replies bring none, as those of an evaluation.
        wanted: metrics that the wrapped strategy must find; the first weights a reply.
        usual: what is usual; updated.
        asked: the nodes that were sent a message; None if that is not known.
    """
    left_out: list[tuple[Message, Unfit]] = []

    def kept(these: list[_Candidate], faults: list[Unfit | None]) -> list[_Candidate]:
        pairs = list(zip(these, faults, strict=True))
        left_out.extend((c.reply, fault) for c, fault in pairs if fault is not None)
        return [candidate for candidate, fault in pairs if fault is None]

    errors, usable, heard = [], [], set()
    for reply in sorted(replies, key=_rank):
        node = reply.metadata.src_node_id
        try:
            if asked is not None and node not in asked:
                raise Unfit("was not asked in this round")
            if reply.has_error():
                errors.append(reply)
                continue
            if node in heard:
                raise Unfit("has replied already")
            usable.append(_candidate(reply, model, wanted, usual))
            heard.add(node)
        except Unfit as fault:
            left_out.append((reply, fault))
    usable = kept(usable, _unusual_forms(usable, usual))
    if model is not None:
        usable = kept(usable, _unusual_types(usable, model))
        usable = kept(usable, _disproportionate(usable, model, usual))
    for reply, fault in left_out:
        log.warning("node %s %s; its reply is left out of this round", describe(reply), fault)
    usual.update(usable)
    _put_in_order(usable, model)
    reasons = {reply.metadata.src_node_id: fault for reply, fault in left_out}
    return Sifted([candidate.reply for candidate in usable], errors, reasons)


def _candidate(
    reply: Message, model: GlobalModel | None, wanted: Sequence[str], usual: Usual
) -> _Candidate:
    """Check a reply by itself; `Unfit` with the reason why it is unusable."""
    try:
        if not reply.has_content():
            raise Unfit("sent nothing", True)
        arrays, norm = ArrayRecord(), 0.0
        if model is not None:
            arrays, norm = model.check(_only(reply.content.array_records, "ArrayRecord"))
        metrics = _only(reply.content.metric_records, "MetricRecord")
        metrics, aliases = with_names(metrics, wanted)
        check_metrics(metrics, wanted[0])
    except Unfit:
        raise
    except Exception as fault:
        # Whatever else a client may send: its reply is no reason to end the run.
        why = clipped(f"{type(fault).__name__}: {fault}")
        raise Unfit(f"sent a reply that cannot be read ({why})") from fault
    usual.aliases.update(aliases)
    return _Candidate(reply, metrics, arrays, norm)


def _only(records: Mapping[str, Record], kind: str) -> Record:
    if len(records) != 1:
        raise Unfit(f"sent {len(records)} {kind}s, and must send one", True)
    return next(iter(records.values()))


def _unusual_forms(candidates: list[_Candidate], usual: Usual) -> list[Unfit | None]:
    """Return the faults of those with other metrics than most; a tie is as before."""
    forms = [form_of(candidate.metrics) for candidate in candidates]
    form = _most_common(forms, usual.form)
    return [
        None
        if own == form
        else Unfit(f"sent the metrics {list(own)}, and most others sent {list(form or ())}")
        for own in forms
    ]


def _unusual_types(candidates: list[_Candidate], model: GlobalModel) -> list[Unfit | None]:
    """Convert models to the precision of most others; return the faults of those that fail."""
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


def _disproportionate(
    candidates: list[_Candidate], model: GlobalModel, usual: Usual
) -> list[Unfit | None]:
    norms = sorted(candidate.norm for candidate in candidates)
    if usual.norm is not None:
        insort(norms, usual.norm)
    faults: list[Unfit | None] = []
    for candidate in candidates:
        limit, beside = _TIMES_ANY * model.scale, ""
        if len(norms) > 1:
            others = _median_of_others(norms, candidate.norm)
            limit = min(limit, max(_TIMES_OTHERS * others, _TIMES_MODEL * model.scale))
            beside = f", and the median of the others' {others:.3g}"
        text = f"sent an update of norm {candidate.norm:.3g}, which is disproportionate: "
        text += f"the model's is {model.scale:.3g}{beside}"
        faults.append(None if candidate.norm <= limit else Unfit(text))
    return faults


def _median_of_others(ordered: Sequence[float], own: float) -> float:
    """Return the median without one's own; of two, the lower: the other may be a fault too."""
    middle = (len(ordered) - 2) // 2
    return ordered[middle + 1] if own <= ordered[middle] else ordered[middle]


def _most_common(values: Sequence[Choice], in_a_tie: Choice | None) -> Choice | None:
    """Return the most common of values; None if there are none."""
    counts = Counter(values)
    most = [value for value, count in counts.items() if count == max(counts.values())]
    return in_a_tie if in_a_tie in most else next(iter(most), None)


def _put_in_order(usable: list[_Candidate], model: GlobalModel | None) -> None:
    """Give each reply its records as they are now, under the names that most others use."""
    kinds = (MetricRecord,) if model is None else (MetricRecord, ArrayRecord)
    keys = _most_common([_keys(candidate.reply, kinds) for candidate in usable], None)
    for candidate in usable:
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


def _rank(reply: Message) -> tuple[int, int]:
    """Return the sort key of a reply: its partition, else its node."""
    partition, node = partition_of(reply), reply.metadata.src_node_id
    return (1, node) if partition is None else (0, partition)
