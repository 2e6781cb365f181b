"""What the model of a sync says of large clusters, as tables for the record."""

from dataclasses import asdict, fields

from .cluster import (
    UNITS,
    Cluster,
    Plan,
    averaged_weights_seconds,
    gradient_seconds,
    interval_for,
    memory,
    overhead,
    probe_seconds,
    step_seconds,
    sync,
)
from .model import RUN

MODELS = [("1B", 10**9, 1), ("70B", 70 * 10**9, 8), ("70B", 70 * 10**9, 64)]
GPUS = [8, 64, 256, 1024]
INTERVALS = [100, 1000]
SHARES = [0.01, 0.001]
PROBE_BATCHES = [1, 4]


def row(name: str, parameters: int, gpus: int, shards: int, cluster: Cluster) -> dict:
    """Return a row of the large table; without figures where there are no two replicas."""
    narrow, plan = (Plan(parameters, gpus, shards, kept) for kept in (2, 4))
    head = {"model": name, "shards": shards, "gpus": gpus}
    if plan.replicas < 2:
        return head
    cost, step = sync(plan, cluster), step_seconds(plan, cluster)
    in_bf16 = sync(narrow, cluster).seconds
    # As if the host's calls worked on what a CPU's cache holds.
    shorter = sync(plan, cluster, run=RUN)
    return head | {
        "replicas": plan.replicas,
        "seconds": cost.seconds,
        "seconds in bf16": in_bf16,
        "parts": asdict(cost),
        "with short runs": shorter.seconds,
        "step": step,
        "gradients": [
            in_bf16 / gradient_seconds(narrow, cluster),
            cost.seconds / gradient_seconds(plan, cluster),
        ],
        "overhead": [overhead(cost.seconds, t, step) for t in INTERVALS],
        "interval": [interval_for(share, cost.seconds, step) for share in SHARES],
    }


def tables(cluster: Cluster) -> dict:
    """Return what is assumed of large clusters, and what the model says of them."""
    rows, explorer, sizes = [], [], []
    for name, parameters, shards in MODELS:
        rows += [row(name, parameters, gpus, shards, cluster) for gpus in GPUS]
        for kept in (2, 4):
            plan = Plan(parameters, GPUS[-1], shards, kept)
            passes = averaged_weights_seconds(plan, cluster)
            step = step_seconds(plan, cluster)
            shares = [
                [(passes + probe_seconds(plan, cluster, b)) / t / step for t in INTERVALS]
                for b in PROBE_BATCHES
            ]
            head = {"model": name, "shards": shards, "kept": kept}
            explorer.append(head | {"passes": passes, "overhead": shares})
            sizes.append(head | asdict(memory(plan)))
    name, parameters, _ = MODELS[0]
    whole = [Plan(parameters, GPUS[1], state=state) for state in (0, 2)]
    state = {"model": name, "gpus": GPUS[1]}
    state["seconds"] = [sync(plan, cluster).seconds for plan in whole]
    return {
        "assumptions": assumptions(cluster),
        "capacity": cluster.capacity,
        "intervals": INTERVALS,
        "shares": SHARES,
        "probe batches": PROBE_BATCHES,
        "rows": rows,
        "explorer": explorer,
        "memory": sizes,
        "with state": state,
    }


def assumptions(cluster: Cluster) -> list[dict]:
    """Return each constant in its unit, with what it is and where it is from."""
    found = []
    for one in fields(cluster):
        scale = UNITS.get(one.metadata["unit"], 1)
        found.append({"value": getattr(cluster, one.name) / scale, **one.metadata})
    return found
