"""All that `hdet doctor` looks at, in order, the same on every process.

There are three stages: where each process runs, whether they can sum, and the user's own run.
After each all know what all have found; one after which something is wrong is the last.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ..replica.ensemble.agreement import differences, in_words
from . import machine, own_run
from .company import Company, launched
from .findings import Finding, note, ok, wrong

Reports = Sequence[Mapping[str, Any]]


def diagnose(company: Company, target: str | None, steps: int | None) -> list[Finding]:
    """Return the findings of all processes. Collective.

    Args:
        company: the processes.
        target: the user's function, "module:function"; None to look at the machines alone.
        steps: optimizer steps of the run, where its schedule does not tell.
    """
    report: dict[str, Any] = {"versions": machine.versions(), "settings": machine.settings()}
    device = None
    try:
        device = machine.take_device()
        report["place"] = machine.place(device)
    except Exception as error:
        report |= {"error": own_run.in_one_line(error), "order": 1}
    reports = company.exchange("the start", report)
    found = _machines(reports)
    if device is None or _any_wrong(found):
        return found
    wire = None
    if company.size > 1:
        reports = company.exchange(
            "the all-reduce", _tried(company, machine.all_reduce, device)
        )
        found += _wire(reports)
        if _any_wrong(found):
            return found
        wire = max(reports, key=lambda report: report["milliseconds"])
    if target is None:
        return [*found, note("run", "not looked at: give MODULE:FUNCTION")]
    report = _tried(company, _own, target, steps, wire)
    return found + _run(company.exchange("the run", report))


def _tried(company: Company, call: Any, *args: Any) -> dict[str, Any]:
    """Return what a call returns, or its error."""
    try:
        return call(*args)
    except (Exception, SystemExit) as error:
        return company.fail(own_run.in_one_line(error))


def _own(target: str, steps: int | None, wire: dict[str, Any] | None) -> dict[str, Any]:
    explorer = own_run.make(target)
    outlook = own_run.outlook(explorer, steps, wire)
    facts = in_words(explorer._facts())
    return {"facts": facts, "outlook": [list(vars(finding).values()) for finding in outlook]}


def _machines(reports: Reports) -> list[Finding]:
    versions = ", ".join(f"{name} {told}" for name, told in reports[0]["versions"].items())
    found = [ok("versions", versions), *_errors("process", reports)]
    came = [rank for rank, report in enumerate(reports) if "versions" in report]
    for subject in ("versions", "settings"):
        for said in differences(came, [reports[rank][subject] for rank in came]):
            found.append(wrong(subject, f"differ: {said}"))
    if not launched() and (alone := machine.started_alone()):
        found.append(wrong("processes", alone))
    places = [report["place"] for report in reports if "place" in report]
    if len(places) < len(reports):
        return found
    same = [{key: p[key] for key in ("device", "backend")} for p in places]
    found += [wrong("devices", f"differ: {said}") for said in differences(came, same)]
    uuids = [place["uuid"] for place in places]
    for uuid in sorted({u for u in uuids if u and uuids.count(u) > 1}):
        who = ", ".join(str(rank) for rank, u in enumerate(uuids) if u == uuid)
        found.append(wrong("devices", f"ranks {who} use the same GPU: give each its own"))
    count, machines = len(places), len({place["machine"] for place in places})
    where = f"{places[0]['device']}, backend {places[0]['backend']}"
    found.append(
        ok("processes", f"{count} on {machines} machine{'s' * (machines > 1)}, {where}")
    )
    return found


def _wire(reports: Reports) -> list[Finding]:
    if failed := _errors("all-reduce", reports):
        return failed
    if bad := [str(rank) for rank, report in enumerate(reports) if not report["right"]]:
        return [wrong("all-reduce", f"the sum is not that of all, on rank {', '.join(bad)}")]
    slowest = max(reports, key=lambda report: report["milliseconds"])
    rate = slowest["bytes"] / slowest["milliseconds"] / 1e6
    return [
        ok(
            "all-reduce",
            f"{slowest['bytes'] / 2**20:.0f} MiB in {slowest['milliseconds']:.3g} ms, "
            f"{rate:.3g} GB/s; four bytes in {slowest['latency']:.2g} ms",
        )
    ]


def _run(reports: Reports) -> list[Finding]:
    if failed := _errors("run", reports):
        return failed
    ranks, facts = range(len(reports)), [report["facts"] for report in reports]
    differ = [wrong("run", f"the ranks differ: {said}") for said in differences(ranks, facts)]
    return [*(Finding(*told) for told in reports[0]["outlook"]), *differ]


def _errors(subject: str, reports: Reports) -> list[Finding]:
    """Return the error that came first: those after it may be its consequence."""
    failed = [(r["order"], rank, r["error"]) for rank, r in enumerate(reports) if "error" in r]
    if not failed:
        return []
    _, rank, error = min(failed)
    # The library's own errors begin with the rank.
    texts = {text.replace(f"[rank {r} of {len(reports)}] ", "") for _, r, text in failed}
    if len(texts) > 1 or len(failed) < len(reports):
        return [wrong(subject, f"first on rank {rank}: {error}")]
    who = "on every rank: " if len(reports) > 1 else ""
    return [wrong(subject, who + texts.pop())]


def _any_wrong(found: Sequence[Finding]) -> bool:
    return any(finding.level == "wrong" for finding in found)
