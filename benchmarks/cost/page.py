"""Make docs/cost.md from records/cost.json."""

import json
from pathlib import Path

RECORDS = Path(__file__).parent / "records"
PARTS = ("wire", "copies", "host", "roll_call")
KEPT = {2: "bf16", 4: "fp32"}
# A prediction that is further off than this is named.
MISS = 0.3

QUIET = "Rounds in which other programs took much of the cores do not count."
BUSY = """\
other programs took part of the cores in most rounds. Long calls suffer more than short ones,
so go by the processors' time there, in the last column."""

MODEL = """\
## The model

    sync      = roll call + check + 2 gathers + averaging
    roll call = 3 P q                        one store answers three requests of P processes
    check     = 2 buckets packed + one pass over the rest
    gather    = all-reduce of a few bytes
    averaging = two buckets in flight: while one is on the wire, the one before is unpacked
                and the one after is packed; the slower of the two decides

    all-reduce of a bucket of b bytes over N replicas, n of them in each of M nodes:
      inside a node     2 (n-1)/n b / L  +  2 (n-1) l
      over the network  2 (M-1)/M (b/n) / W  +  2 (M-1) w         as a ring
                        2 (b/n) / W  +  2 ceil(log2 M) w          as a tree; the quicker one

    bytes to and from memory for an element that has k as it is kept and v on the wire:
      packed    k + 2 v                      read, written, summed
      checked   k                            summed where it is
      unpacked  3 v + k                      `average_`: divided, copied back
                5 v + 4 k                    a sync: divergence subtracted, two norms besides

    overhead  = sync / (T step),   step = 6 parameters tokens / (FLOP/s)

q is the store's time for a request; L and W are bytes per second of the link inside a node
and of the network, l and w the latency of a hop. Half precision travels as float32, twice
its bytes, so that v is 4 either way. A bucket has 25 MiB. Under a sharded model each GPU
averages its own shard over the replicas, all shards at once. State that follows the weights,
as under coupled weight decay, counts like parameters. The host makes 11 calls of torch in a
sync for each run of elements that is worked on together: 262,144 of them on a CPU, for its
cache, a bucket elsewhere. They run ahead of the device; where they take longer than what the
device has to do, they decide.
"""


def _pm(value: dict) -> str:
    return f"{value['median']:.2f} ± {value['error']:.2f}"


def _percent(value: float) -> str:
    return f"{100 * value:.2g} %"


def _seconds(value: float) -> str:
    return f"{value:.3f}"


def _range(values: list[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}"


def _plan(row: dict) -> str:
    return row["model"] + (f", {row['shards']} shards" if row["shards"] > 1 else ", DDP")


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, *rows)]
    return [lines[0], "|---" * len(head) + "|", *lines[1:], ""]


def _real(record: dict) -> list[dict]:
    return [row for row in record["rows"] if "seconds" in row]


def cost_page(records: Path = RECORDS) -> str:
    """Return docs/cost.md."""
    record = json.loads((records / "cost.json").read_text())
    lines = [*_in_short(record), *MODEL.split("\n"), *_against_gloo(record), *_assumed(record)]
    lines += _large(record) + _explorer(record) + _memory(record) + _choose(record)
    return "\n".join([*lines, LIMITS])


def _in_short(record: dict) -> list[str]:
    rows, processes = _real(record), record["processes"].values()
    shared = [case["shared"]["median"] for one in processes for case in one["cases"].values()]
    short = [row["with short runs"] / row["seconds"] for row in rows]
    clauses = []
    for i, t in enumerate(record["intervals"]):
        shares = [row["overhead"][i] for row in rows]
        clauses.append(f"{_percent(min(shares))} to {_percent(max(shares))} at T = {t:,}")
    return [
        "# What a sync costs",
        "",
        "Written by `python benchmarks/write_docs.py` from `benchmarks/records`.",
        "",
        "A sync is paid for once in T steps. What it costs on many GPUs is worked out here",
        "from bytes, bandwidths and latencies; no constant was fitted to a sync. The same",
        "model is checked against gloo. **Nothing on this page was measured on a GPU.**",
        "",
        f"- On the clusters below a sync adds to a step: {', '.join(clauses)}.",
        f"- Against gloo the predicted times are {_range(shared)} of the measured ones.",
        "- On a GPU the host works on whole buckets. Cut for a cache, as on a CPU, its calls",
        f"  would make a sync {_range(short)} times as long: a fast wire would wait for them.",
        "",
    ]


def _parts(record: dict) -> list[str]:
    names = {
        "small ms": "all-reduce of 1 KiB, ms",
        "latency ms": "latency of an all-reduce, ms",
        "wire GB/s": "its bytes, GB/s",
        "memory GB/s": "memory, read and written, all processes at once, GB/s each",
        "cache GB/s": "the same within 2 MiB, GB/s each",
        "piece us": "host, for each tensor, µs",
        "request us": "a TCP store, for each request while all ask, µs",
        "cores": "cores that other programs left",
    }
    both = record["processes"]
    rows = [[name, *[_pm(one[key]) for one in both.values()]] for key, name in names.items()]
    rows.append(["rounds that count", *[str(one["rounds"]) for one in both.values()]])
    return _table(["measured", *[f"{n} processes" for n in both]], rows)


def _against_gloo(record: dict) -> list[str]:
    busy = [n for n, one in record["processes"].items() if not one["quiet"]]
    lines = [
        "## Against gloo",
        "",
        f"`{record['command']}`: {record['rounds']} rounds, in which everything takes its",
        f"turn; {record['machine']}, torch {record['torch']}. Latency and bandwidth come from",
        "plain all-reduces of five sizes, the memory's speed from plain copies, the host's",
        "time for a tensor from 1,000 tensors of one element. Medians ± standard errors.",
        QUIET,
        *[f"With {n} processes too few would be left, so all count:\n{BUSY}" for n in busy],
        "",
        *_parts(record),
        "Predicted over measured, round by round. *Wire* is the all-reduces alone. *Overlap*",
        "adds check, copies and host, as if the wire needed no processor. *Shared* is the",
        "model: here the processors are the wire too, so no time is shorter than what all",
        "processes have to do over the cores. *Work* compares processor time, which other",
        "programs on the machine hardly change.",
        "",
    ]
    kinds = ("wire", "path", "shared", "work")
    medians: dict[str, list[float]] = {"wire": [], "shared": []}
    work, misses = dict[str, float](), list[str]()
    for n, one in record["processes"].items():
        rows = []
        for name, case in one["cases"].items():
            rows.append([name, f"{case['ms']:.0f}", *[_pm(case[k]) for k in kinds]])
            for kind in medians:
                medians[kind].append(case[kind]["median"])
            ratio, title = case["shared"], f"{name}, {n} processes"
            work[title] = case["work"]["median"]
            if abs(ratio["median"] - 1) > MISS:
                misses.append(f"{title} ({_pm(ratio)})")
        head = [f"{n} processes", "measured, ms", "wire", "overlap", "**shared**", "work"]
        lines += _table(head, rows)
    return [
        *lines,
        f"The wire alone explains {_range(medians['wire'])} of the time, the model",
        f"{_range(medians['shared'])}; of the processors' work it predicts",
        f"{_range(list(work.values()))}, least with {min(work, key=lambda n: work[n])}.",
        f"Times more than {_percent(MISS)} off: {'; '.join(misses) or 'none'}.",
        "",
        "The ring itself sends 2 (N-1) buckets in all, three times as much between four",
        "processes as between two. Processor time, in the same rounds:",
        f"{_pm(record['processes']['4']['ring'])} times.",
        "",
    ]


def _assumed(record: dict) -> list[str]:
    given = record["assumptions"]
    rows = [[g["what"], f"{g['value']:,.6g} {g['unit']}".strip(), g["source"]] for g in given]
    head = ["what", "value", "source"]
    return ["## Large clusters: what is assumed", "", *_table(head, rows)]


def _large(record: dict) -> list[str]:
    rows = record["rows"]
    head = ["GPUs", "replicas", "one sync, s", *[part.replace("_", " ") for part in PARTS]]
    head += ["short runs", "gradients, bf16", "gradients, fp32"]
    head += [f"T = {t:,}" for t in record["intervals"]]
    head += [f"T for {_percent(share)}" for share in record["shares"]]
    other = max(abs(r["seconds in bf16"] / r["seconds"] - 1) for r in _real(record))
    lines = [
        "## Large clusters: a sync",
        "",
        "*Wire*, *copies* and *host* are the seconds that each would take alone; *one sync*",
        "has them overlap. *Short runs* is a sync with the runs of a CPU.",
        "*Gradients* is one sync over the time of one step's gradients on the same wire, where",
        "both are kept in that precision. *T =* has what a sync adds to a step. Replicas are",
        "GPUs over shards; a dash where there are no two. Parameters are kept in fp32; those",
        f"kept in bf16 travel as fp32, and take the same time to within {_percent(other)}.",
        "",
    ]
    for plan in dict.fromkeys(map(_plan, rows)):
        own = [_cells(row) for row in rows if _plan(row) == plan]
        filled = [[*cells, *["-"] * (len(head) - len(cells))] for cells in own]
        lines += [f"**{plan}**", "", *_table(head, filled)]
    return lines


def _cells(row: dict) -> list[str]:
    if "seconds" not in row:
        return [f"{row['gpus']:,}"]
    return [
        f"{row['gpus']:,}",
        f"{row['replicas']:,}",
        _seconds(row["seconds"]),
        *[_seconds(row["parts"][part]) for part in PARTS],
        _seconds(row["with short runs"]),
        *[f"{value:.1f}" for value in row["gradients"]],
        *map(_percent, row["overhead"]),
        *[f"{value:,}" for value in row["interval"]],
    ]


def _explorer(record: dict) -> list[str]:
    columns = [
        f"{b} batch{'es' * (b > 1)}, T = {t:,}"
        for b in record["probe batches"]
        for t in record["intervals"]
    ]
    rows = [
        [_plan(row), KEPT[row["kept"]], _seconds(row["passes"])]
        + [_percent(share) for batch in row["overhead"] for share in batch]
        for row in record["explorer"]
    ]
    return [
        "## What Explorer adds",
        "",
        "The averaged weights are a few passes over memory; the probe is a forward pass, on so",
        "many batches of one GPU's step. Their share of a step, besides the sync:",
        "",
        *_table(["model", "kept in", "passes, s", *columns], rows),
    ]


def _memory(record: dict) -> list[str]:
    capacity, memory = record["capacity"], record["memory"]
    parts = ("training", "buckets", "average", "probe")
    sizes = [[f"{row[k] / 1e9:.2f}" for k in parts] for row in memory]
    rows = [[_plan(r), KEPT[r["kept"]], *own] for r, own in zip(memory, sizes, strict=True)]
    tight = [f"{_plan(r)}, {KEPT[r['kept']]}" for r in memory if r["training"] > capacity]
    head = ["model", "kept in", "training", "two buckets", "Explorer's average"]
    return [
        "## Extra memory",
        "",
        "GB on each GPU. *Training* is weights, gradients and Adam's two moments in fp32,",
        "without activations. The buckets are all that `OneCycleAutoLR` and `average_` add.",
        "",
        *_table([*head, "and while it probes"], rows),
        f"Too large for {capacity / 1e9:.0f} GB without HDET already: "
        f"{'; '.join(tight) or 'none'}.",
        "",
    ]


def _choose(record: dict) -> list[str]:
    rows = []
    for plan in dict.fromkeys(map(_plan, _real(record))):
        found = [row["interval"] for row in _real(record) if _plan(row) == plan]
        rows.append([plan, *[f"T = {max(column):,}" for column in zip(*found, strict=True)]])
    state = record["with state"]
    plain, more = map(_seconds, state["seconds"])
    head = ["a sync adds, at every size above"]
    head += [f"at most {_percent(share)}" for share in record["shares"]]
    return [
        "## Choosing T",
        "",
        *_table(head, rows),
        "That is the sync alone; Explorer's probe may cost more. T goes with one over the",
        "tokens of a step: half the tokens, twice the T. Where both of Adam's moments are",
        f"averaged too, a sync of {state['model']} on {state['gpus']} GPUs takes {more} s in",
        f'place of {plain} s. `metrics()["sync_ms"]` tells what it takes on your machine.',
        "",
    ]


LIMITS = """\
## What this does not say

- NCCL has never been measured here. Its bandwidth depends on the network's topology, on
  how buckets fall into its protocols, and on who else is on the wire.
- A sync waits for the slowest process. Gradients make all wait at every step too, so that
  is no new cost; but the host, which runs ahead of a GPU, waits at a sync.
- Collectives take a GPU's processors and memory from the copies beside them. That is left
  out, and so is what a GPU's cache saves of the copies.
- Gradients overlap with the backward pass; a sync overlaps with nothing.
- The check against gloo covers buckets, copies, host and overlap. It has no network, no
  nodes, and no more than four processes.
"""
