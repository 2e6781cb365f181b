"""What is assumed of a large machine, and what a sync costs there.

Pure functions, as in `cost_model.py`. None of it has been measured.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from .model import (
    BUCKET_BYTES,
    CHECK_CALLS,
    RUN_CALLS,
    Rates,
    Wire,
    copies,
    hierarchical_seconds,
    pipeline_seconds,
    roll_call_seconds,
    wire_itemsize,
)

NOMINAL = "vendor's nominal figure, H100 SXM"
ASSUMED = "assumed"
# What one of a unit is in seconds, bytes or operations.
UNITS = {"TB/s": 1e12, "GB/s": 1e9, "GB": 1e9, "TFLOP/s": 1e12, "µs": 1e-6}


def _given(value: float, unit: str, source: str, what: str) -> Any:
    return field(default=value, metadata={"unit": unit, "source": source, "what": what})


@dataclass(frozen=True)
class Cluster:
    """All that is assumed of the machines. The metadata has what, unit and source."""

    memory: float = _given(3.35e12, "TB/s", NOMINAL, "a GPU's memory, read or written")
    capacity: float = _given(80e9, "GB", NOMINAL, "size of a GPU's memory")
    link: float = _given(450e9, "GB/s", NOMINAL, "NVLink, each GPU, one direction")
    network: float = _given(50e9, "GB/s", NOMINAL, "network, each GPU, one direction")
    per_node: int = _given(8, "GPUs", NOMINAL, "GPUs of a node")
    flops: float = _given(989e12, "TFLOP/s", NOMINAL, "bf16, dense")
    reached: float = _given(0.8, "", ASSUMED, "share of each nominal bandwidth reached")
    utilisation: float = _given(0.4, "", ASSUMED, "share of the nominal FLOP/s reached")
    tokens: int = _given(8192, "tokens", ASSUMED, "of each GPU in one optimizer step")
    link_latency: float = _given(5e-6, "µs", ASSUMED, "one hop over NVLink")
    network_latency: float = _given(10e-6, "µs", ASSUMED, "one hop over the network")
    call: float = _given(5e-6, "µs", ASSUMED, "the host's time for one call of torch")
    request: float = _given(20e-6, "µs", ASSUMED, "the store's time for one request")

    @property
    def speed(self) -> float:
        """FLOP/s that a step reaches."""
        return self.utilisation * self.flops

    @property
    def rates(self) -> Rates:
        """Nothing stays in a GPU's cache from one pass to the next."""
        return Rates(self.reached * self.memory, self.reached * self.memory)

    def all_reduce(self, nbytes: float, ranks: int, inside: int) -> float:
        """Return the time of an all-reduce with `inside` of the ranks in each node."""
        link = Wire(self.reached * self.link, self.link_latency)
        network = Wire(self.reached * self.network, self.network_latency)
        return hierarchical_seconds(nbytes, ranks, inside, link, network)


@dataclass(frozen=True)
class Plan:
    """A model on a cluster. The shards of a replica fill whole nodes, or share one."""

    parameters: int  # of the whole model
    gpus: int  # all of them
    shards: int = 1  # GPUs that one replica is split over; 1 under plain data parallelism
    kept: int = 4  # bytes of one parameter
    # Tensors as large as the parameters that are averaged besides, such as Adam's two moments
    # under coupled weight decay.
    state: int = 0

    @property
    def replicas(self) -> int:
        """How many there are; 0 where the GPUs do not make up whole ones."""
        return 0 if self.gpus % self.shards else self.gpus // self.shards

    @property
    def shard(self) -> int:
        """The parameters that each GPU holds."""
        return math.ceil(self.parameters / self.shards)

    @property
    def elements(self) -> int:
        """How many elements each GPU averages."""
        return self.shard * (1 + self.state)

    def wire_seconds(self, nbytes: float, cluster: Cluster) -> float:
        """Return the time of one all-reduce over the replicas."""
        inside = max(1, cluster.per_node // self.shards)
        return cluster.all_reduce(nbytes, self.replicas, inside)

    def buckets_seconds(self, nbytes: int, cluster: Cluster) -> list[float]:
        """Return the time of each bucket on the wire."""
        full, rest = divmod(nbytes, BUCKET_BYTES)
        sizes = [BUCKET_BYTES] * full + [rest] * (rest > 0)
        return [self.wire_seconds(size, cluster) for size in sizes]


@dataclass(frozen=True)
class Sync:
    """The seconds of a sync in order; and `wire`, `copies` and `host`, were each alone."""

    roll_call: float
    check: float
    gathers: float
    averaging: float
    wire: float
    copies: float
    host: float

    @property
    def seconds(self) -> float:
        """How long it takes."""
        return self.roll_call + self.check + self.gathers + self.averaging


def sync(plan: Plan, cluster: Cluster, run: int = BUCKET_BYTES // 4) -> Sync:
    """Return the cost of a sync, `hdet.replica.ensemble.ensemble.Ensemble.sync`.

    The host's calls run ahead of the device, up to the gather that it waits for. On a GPU
    they work on whole buckets.
    """
    passes = copies(plan.elements, plan.kept, cluster.rates, measured=True)
    wires = plan.buckets_seconds(plan.elements * wire_itemsize(plan.kept), cluster)
    calls = cluster.call * plan.elements / run
    small = plan.wire_seconds(8, cluster)
    small += cluster.all_reduce(8, plan.shards, cluster.per_node)
    together = pipeline_seconds(wires, passes.packs, passes.unpacks)
    return Sync(
        roll_call=roll_call_seconds(plan.gpus, cluster.request),
        check=max(passes.check, CHECK_CALLS * calls),
        gathers=2 * small,
        averaging=max(together, RUN_CALLS * calls),
        wire=sum(wires),
        copies=passes.total,
        host=(CHECK_CALLS + RUN_CALLS) * calls,
    )


def gradient_seconds(plan: Plan, cluster: Cluster) -> float:
    """Return the time of one step's gradients on the wire, in the parameters' precision."""
    return sum(plan.buckets_seconds(plan.shard * plan.kept, cluster))


# --- against a step


def step_seconds(plan: Plan, cluster: Cluster) -> float:
    """Return the time of one optimizer step: 6 FLOPs for each parameter and token.

    What a step sends to other GPUs is part of the utilisation.
    """
    return 6 * plan.parameters * cluster.tokens / cluster.speed


def overhead(sync: float, interval: int, step: float) -> float:
    """Return what a sync every `interval` steps adds, as a share of the step's time."""
    return sync / interval / step


def interval_for(share: float, sync: float, step: float) -> int:
    """Return the smallest interval whose overhead is at most `share`."""
    return max(1, math.ceil(sync / step / share))


# --- what Explorer adds


def averaged_weights_traffic(kept: int) -> int:
    """Return the bytes that averaged weights move for each element at a sync.

    The average is kept in float32 at least. Before the probe: own weights set aside, a point
    in between computed and copied in. After it: own weights put back, the average updated.
    """
    wide = wire_itemsize(kept)
    widened = kept + wide if kept < wide else 0
    aside = back = 2 * kept
    between = widened + 3 * wide + wide + kept
    update = widened + 3 * wide
    return aside + between + back + update


def averaged_weights_seconds(plan: Plan, cluster: Cluster) -> float:
    """Return the time of those passes."""
    return plan.shard * averaged_weights_traffic(plan.kept) / cluster.rates.memory


def probe_seconds(plan: Plan, cluster: Cluster, batches: float = 1) -> float:
    """Return the time of the probe's forward pass: 2 FLOPs for each parameter and token.

    Every GPU scores the whole probe batch; `batches` counts it in batches of one GPU's step.
    """
    return 2 * plan.parameters * batches * cluster.tokens / cluster.speed


@dataclass(frozen=True)
class Memory:
    """Bytes on each GPU: what training needs, and what is added to it."""

    training: int  # weights, gradients and two moments in float32
    buckets: int  # during every sync; a caching allocator keeps them
    average: int  # Explorer's averaged weights, always
    probe: int  # the weights set aside while the probe runs


def memory(plan: Plan) -> Memory:
    """Return what a GPU has to hold, activations left out."""
    size = wire_itemsize(plan.kept)
    return Memory(
        training=plan.shard * (2 * plan.kept + 8),
        buckets=min(2 * BUCKET_BYTES, plan.elements * size),
        average=plan.shard * size,
        probe=plan.shard * plan.kept,
    )
