"""What a sync costs, from bytes, bandwidths and latencies alone: a model in pure functions.

Nothing is measured here. `cost.py` gives it what a machine has been measured to do, and
compares; `cost_cluster.py` gives it the nominal figures of large machines. Times are in
seconds, sizes in bytes, bandwidths in bytes per second of one process.

The averaging of one process (`hdet.replica.ensemble.averaging`) on a CPU, in order:

    check       the first two buckets are packed, and everything is looked at once
    gather      one small all-reduce: is everybody finite, and of the same layout
    averaging   per bucket: pack, all-reduce, unpack; two buckets in flight
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

# As in hdet.replica.ensemble.averaging: size of a bucket, and of the runs worked on together.
BUCKET_BYTES = 25 * 2**20
RUN = 2**18
# Calls of torch for each run in a sync: one to check it, three to pack it, seven to unpack it.
CHECK_CALLS, RUN_CALLS = 1, 3 + 7
# What each process asks of the store in a roll call: a line of its own, the counter, and the
# counter once more when the others have come.
STORE_REQUESTS = 3


# --- the wire


def ring_seconds(nbytes: float, ranks: int, bandwidth: float, latency: float) -> float:
    """Return the time of a ring all-reduce: 2 (N-1)/N of the bytes, in 2 (N-1) hops."""
    return 2 * (ranks - 1) * (nbytes / ranks / bandwidth + latency)


def tree_seconds(nbytes: float, ranks: int, bandwidth: float, latency: float) -> float:
    """Return the time of a double binary tree: all bytes up and down, in 2 log2 N hops."""
    if ranks == 1:
        return 0.0
    return 2 * (nbytes / bandwidth + math.ceil(math.log2(ranks)) * latency)


def quicker_seconds(nbytes: float, ranks: int, bandwidth: float, latency: float) -> float:
    """Return the time of ring or tree: NCCL chooses by size and number of ranks."""
    ring = ring_seconds(nbytes, ranks, bandwidth, latency)
    return min(ring, tree_seconds(nbytes, ranks, bandwidth, latency))


@dataclass(frozen=True)
class Wire:
    """Bandwidth, and latency of a hop."""

    bandwidth: float
    latency: float


def hierarchical_seconds(
    nbytes: float, ranks: int, inside: int, link: Wire, network: Wire
) -> float:
    """Return the time of an all-reduce over nodes that hold `inside` of the ranks each.

    Reduce-scatter inside the node, all-reduce of each rank's part over the network, all-gather
    inside, one after the other. The first and the last are the two halves of a ring.
    """
    inside = min(inside, ranks)
    nodes = math.ceil(ranks / inside)
    within = ring_seconds(nbytes, inside, link.bandwidth, link.latency)
    part = nbytes / inside
    return within + quicker_seconds(part, nodes, network.bandwidth, network.latency)


def roll_call_seconds(processes: int, request: float) -> float:
    """Return the time until one store has answered every process; nobody is late."""
    return STORE_REQUESTS * processes * request if processes > 1 else 0.0


# --- the memory


def wire_itemsize(kept: int) -> int:
    """Return the bytes in which an element travels: half precision goes as float32."""
    return max(kept, 4)


def bucket_elements(elements: int, kept: int) -> list[int]:
    """Return how many elements each bucket takes; the last one what is left."""
    cap = BUCKET_BYTES // wire_itemsize(kept)
    full, rest = divmod(elements, cap)
    return [cap] * full + [rest] * (rest > 0)


@dataclass(frozen=True)
class Traffic:
    """Bytes read and written for each element.

    Attributes:
        memory: at the first and the last touch of a run: from memory, and back.
        cache: in between, while a CPU's cache holds the run. A GPU streams these too.
    """

    memory: int
    cache: int


def in_place(kept: int, elements: float = math.inf) -> bool:
    """Return whether a tensor is reduced in its own memory: large ones, but half precision."""
    return wire_itemsize(kept) == kept and 16 * elements * kept >= BUCKET_BYTES


def packing(kept: int, looked_at: bool = True) -> Traffic:
    """Return the traffic of one element into its buffer: copied, and perhaps looked at."""
    wire = wire_itemsize(kept)
    return Traffic(memory=kept + wire, cache=wire if looked_at else 0)


def checking(kept: int) -> Traffic:
    """Return the traffic of one element that is looked at where it is."""
    return Traffic(memory=kept, cache=0)


def unpacking(kept: int, measured: bool, packed: bool) -> Traffic:
    """Return the traffic of one element that has arrived: divided, and copied if packed.

    Where divergence is measured, the mean is subtracted from what was kept, and a norm taken.
    The norm of the mean is left out: each replica takes it of its own share.
    """
    wire = wire_itemsize(kept)
    if not packed:
        return Traffic(4 * wire, 2 * wire) if measured else Traffic(2 * wire, 0)
    if measured:  # A copy of the buffer, made before it is sent.
        return Traffic(memory=6 * wire + kept, cache=3 * wire)
    return Traffic(memory=2 * wire + kept, cache=wire)


@dataclass(frozen=True)
class Rates:
    """What a process moves in memory and in its cache, bytes per second."""

    memory: float
    cache: float

    def seconds(self, traffic: Traffic, elements: float) -> float:
        """Return the time for so many elements."""
        return elements * (traffic.memory / self.memory + traffic.cache / self.cache)


@dataclass(frozen=True)
class Copies:
    """The time that one process spends on its memory.

    Attributes:
        check: before anything is sent: the first two buckets packed, the others looked at.
        packs: per bucket; those of the first two are in `check`, and 0 here.
        unpacks: per bucket.
    """

    check: float
    packs: list[float]
    unpacks: list[float]

    @property
    def total(self) -> float:
        """The sum of all."""
        return self.check + sum(self.packs) + sum(self.unpacks)


def copies(
    elements: int, kept: int, rates: Rates, measured: bool = False, packed: bool | None = None
) -> Copies:
    """Return the time of all passes over so many elements, by default of large tensors."""
    packed = not in_place(kept) if packed is None else packed
    buckets = bucket_elements(elements, kept)
    first = sum(buckets[:2])
    check = rates.seconds(packing(kept), first)
    check += rates.seconds(checking(kept), elements - first)
    later = packing(kept, looked_at=False)
    packs = [0.0 if i < 2 else rates.seconds(later, n) for i, n in enumerate(buckets)]
    unpacks = unpacking(kept, measured, packed)
    return Copies(check, packs, [rates.seconds(unpacks, n) for n in buckets])


def pipeline_seconds(
    wires: Sequence[float], packs: Sequence[float], unpacks: Sequence[float]
) -> float:
    """Return when the last bucket is unpacked: two buffers, one wire, one that copies.

    Bucket i + 1 is packed once bucket i - 1 has left its buffer, while bucket i travels.
    The first two are packed before the start.
    """
    ready, arrived, now = [0.0] * len(wires), 0.0, 0.0
    for i, wire in enumerate(wires):
        if 1 <= i < len(wires) - 1:
            now += packs[i + 1]
            ready[i + 1] = now
        arrived = max(arrived, ready[i]) + wire
        now = max(now, arrived) + unpacks[i]
    return now


# --- from measurements


def fit_line(sizes: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """Return latency and seconds per byte: least squares of the relative errors."""
    weights = [1 / s**2 for s in seconds]
    total = math.fsum(weights)
    x = math.fsum(w * n for w, n in zip(weights, sizes, strict=True)) / total
    y = math.fsum(w * s for w, s in zip(weights, seconds, strict=True)) / total
    rows = list(zip(weights, sizes, seconds, strict=True))
    slope = math.fsum(w * (n - x) * (s - y) for w, n, s in rows)
    slope /= math.fsum(w * (n - x) ** 2 for w, n, _ in rows)
    return y - slope * x, slope


@dataclass(frozen=True)
class Measured:
    """What one process was seen to do while all of them did the same; seconds.

    Attributes:
        small: an all-reduce of next to nothing.
        latency: of an all-reduce, by the line through all sizes.
        per_byte: of an all-reduce, likewise.
        rates: of its memory and cache.
        piece: of the host, for each tensor or part of one.
    """

    small: float
    latency: float
    per_byte: float
    rates: Rates
    piece: float


@dataclass(frozen=True)
class Load:
    """What is averaged: `gathers` is 1 for `average_`, 2 for a sync, which measures too."""

    tensors: int
    each: int
    kept: int
    gathers: int = 1

    @property
    def elements(self) -> int:
        """All of them together."""
        return self.tensors * self.each

    @property
    def pieces(self) -> int:
        """How many parts the plan makes: whole tensors, or runs of large ones."""
        return self.tensors * math.ceil(self.each / RUN)


@dataclass(frozen=True)
class Prediction:
    """Seconds of one averaging.

    Attributes:
        wire: all buckets sent one after the other, and nothing else.
        path: what has to wait for something else, in a row; the rest overlaps freely.
        work: everything in a row, nothing overlaps.
    """

    wire: float
    path: float
    work: float


def predict(load: Load, seen: Measured) -> Prediction:
    """Return the time of an averaging by a process whose parts have been measured."""
    packed = not in_place(load.kept, load.each)
    passes = copies(load.elements, load.kept, seen.rates, load.gathers > 1, packed)
    size = wire_itemsize(load.kept)
    wires = [
        seen.latency + n * size * seen.per_byte
        for n in bucket_elements(load.elements, load.kept)
    ]
    before = passes.check + load.pieces * seen.piece + load.gathers * seen.small
    return Prediction(
        wire=sum(wires),
        path=before + pipeline_seconds(wires, passes.packs, passes.unpacks),
        work=before + sum(wires) + sum(passes.packs) + sum(passes.unpacks),
    )


def on_shared_cores(path: float, work: float, processes: int, cores: float) -> float:
    """Return the time where the cores do everything, the wire's work included.

    Args:
        path: seconds on the longest chain of what waits for something else.
        work: seconds of one process's computing, wire and all.
        processes: how many compute as much.
        cores: that they share.
    """
    return max(path, work * processes / cores)
