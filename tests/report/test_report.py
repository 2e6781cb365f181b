"""The page of a user's runs: its words and numbers, its weight, and the command."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("plotly")
pytest.importorskip("typer")
from typer.testing import CliRunner

from hdet.commands import app
from hdet.report.figure import figure
from hdet.report.files import read_record
from hdet.report.words import (
    cost,
    decisions,
    evidence_note,
    number,
    paste,
    ratio,
    status,
    summary,
    trials,
    trials_note,
)

from .runs import HEADER, climb, sync, write


def command(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    return result.exit_code, result.output


def searched(tmp_path: Path, **more: Any) -> Path:
    climbing = [climb(step, 1e-4 * 2**step, loss=5.0) for step in range(1, 6)]
    syncs = [sync(10 * k, rate=0.01, loss=4.0 - 0.1 * k) for k in range(1, 20)]
    return write(tmp_path / "x.jsonl", HEADER, *climbing, *syncs, sync(200, 0.01, **more))


@pytest.mark.ranks
def test_a_real_run(real_record: Path, tmp_path: Path) -> None:
    record = read_record(real_record)
    assert [name for name, *_ in record.spans()][:5] == [
        "climb",
        "settle",
        "trial",
        "warmup",
        "hold",
    ]
    assert [event.kind for event in record.events()] == ["rollback"]
    assert len(record.rates) == 2
    assert [*record.others] == ["weight_decay/0", "weight_decay/1"]
    assert record.trials["before"] > 0
    assert len(record.trials["factors"]) == len(record.trials["losses"]) > 1
    assert record.found == record.latest["found"]
    # Its climb is in the picture of the loss, too.
    assert math.isfinite(record.loss.base[0])
    code, said = command("report", real_record, "--out", tmp_path / "page.html")
    assert (code, said) == (0, f"Report: {tmp_path / 'page.html'}\n")
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert 1_000_000 < len(html) < 5_000_000
    assert "http://" not in html.split('id="plotly"')[0].replace("http://www.w3.org", "")
    for words in (
        "went back to its averaged weights",
        "What the search tried",
        "},  # group 1",
    ):
        assert words in html


def test_what_happened_in_words(tmp_path: Path) -> None:
    record = read_record(searched(tmp_path, loss=1.5))
    assert summary(record) == [
        "You wrote a learning rate of 0.1. The search took 5 steps and found 0.01, 10 times "
        "lower.",
        "The training loss fell from 5 to 1.5 (steps 1 to 200).",
        "There was no roll-back, and no replica was left out.",
    ]
    assert status([record]) == ("Learning rate found: 0.01. Nothing went wrong.", "good")
    assert paste(record) == "lr = 0.01"
    spiked = read_record(searched(tmp_path, loss=9.0, rollbacks=1, exclusions=1, excluded=[1]))
    told = summary(spiked)
    assert told[1].startswith("The training loss rose from 5 to 9; the least was 2.1")
    assert "went back to its averaged weights once (step 200)" in told[2]
    assert "At one sync a replica had diverged" in told[2]
    assert status([record, spiked]) == (
        "Learning rate found: 0.01. Look closer: 1 roll-back, 1 sync without a replica, the "
        "loss rose.",
        "warn",
    )


def test_what_the_search_found_is_told_beside_what_has_become_of_it(tmp_path: Path) -> None:
    lines = [climb(1, 1e-4), sync(10, 0.02, found=[0.02]), sync(20, 0.03, found=[0.03])]
    record = read_record(write(tmp_path / "x.jsonl", HEADER, *lines))
    assert record.searched == [0.02]
    assert "found 0.02; since then it has moved to 0.03, 3.3 times lower" in summary(record)[0]


def test_what_a_search_has_taken_is_told_in_steps_and_percent(tmp_path: Path) -> None:
    going = read_record(write(tmp_path / "x.jsonl", HEADER, *[climb(k, 0.1) for k in (1, 2)]))
    assert ("of the search", "2 steps (100 %)") in cost(going)
    # After 40 steps of warm-up.
    late = [climb(41, 0.1), climb(42, 0.1), sync(100)]
    over = read_record(write(tmp_path / "y.jsonl", HEADER, *late))
    assert ("of the search", "2 steps (2 %)") in cost(over)
    assert "The search took 2 steps" in summary(over)[0]


def test_betas_are_written_as_optimizers_take_them(tmp_path: Path) -> None:
    def pasted(values: dict[str, float], groups: int = 1) -> str:
        header = {**HEADER, "written": [0.1] * groups}
        each = {name: [x, x] for name, x in values.items()}
        line = sync(10, values=values, replica_values=each, found=[0.05] * groups)
        return paste(read_record(write(tmp_path / "x.jsonl", header, line)))

    # 1 - beta has three digits: the optimizer refuses a beta of 1.
    assert pasted({"beta1/0": 0.99996}) == "lr = 0.05\nbetas = (..., 0.99996)"
    assert pasted({"beta0/0": 0.912345, "beta1/0": 0.9}) == "lr = 0.05\nbetas = (0.9123, 0.9)"
    assert pasted({"lr/a": 1.0, "weight_decay/a": 0.1, "p": 0.2}) == (
        "lr = 0.05\nweight_decay = 0.1\np = 0.2"
    )
    assert pasted({"beta0/0": 0.9, "weight_decay/1": 0.1, "p": 0.2}, groups=2).splitlines() == [
        '{"params": ..., "lr": 0.05, "betas": (0.9, ...)},  # group 0',
        '{"params": ..., "lr": 0.05, "weight_decay": 0.1},  # group 1',
        "p = 0.2",
    ]
    named = pasted({"weight_decay/body": 0.1, "weight_decay/head": 0.02}, groups=2)
    assert named.splitlines()[2:] == [
        "weight_decay = 0.1  # group body",
        "weight_decay = 0.02  # group head",
    ]


def test_only_decisions_that_move_a_value_and_what_is_seldom_are_told(tmp_path: Path) -> None:
    said = ["lr factor 0.1 -> 0.2", "lr factor stays at 0.2", "lr factor 0.2 -> 0.3"]
    lines = [sync(10 * k, 0.1, decision=f"step {10 * k}: {w}") for k, w in enumerate(said, 1)]
    record = read_record(write(tmp_path / "x.jsonl", HEADER, *lines))
    assert decisions(record) == [f"step 10: {said[0]}", f"step 30: {said[2]}"]


def test_too_few_replicas_and_trials_that_say_little_are_named(tmp_path: Path) -> None:
    tried = {"before": 2.0, "factors": [0.1, 0.2], "losses": [2.5, 3.0]}
    slopes = {"lr/0": 0.1, "weight_decay/0": 0.1}
    line = sync(10, 0.1, slope=slopes, t=dict.fromkeys(slopes, 1.6))
    trial = {**climb(5, 0.1), "phase": "trial", "tried": tried}
    record = read_record(write(tmp_path / "x.jsonl", HEADER, trial, line))
    assert "No trial lowered the loss" in trials_note(record)
    assert evidence_note(record).startswith("2 replicas cannot tell 2 hyperparameters apart")
    record.header["replicas"] = 4
    assert evidence_note(record) == ""


def test_trials_at_one_rate_stand_side_by_side_also_where_they_diverged(tmp_path: Path) -> None:
    tried = {"before": 2.0, "factors": [0.2, 0.1, 0.1, 0.1], "losses": [1.5, None, 1.7, None]}
    line = {**climb(5, 0.1), "phase": "trial", "tried": tried}
    told = trials(read_record(write(tmp_path / "x.jsonl", HEADER, line, sync(10))))
    assert told == [("before the trials", "2"), ("0.01", "–"), ("0.01", "1.7"), ("0.01", "–"),
                    ("0.02", "1.5")]  # fmt: skip


def test_phases_without_a_search(tmp_path: Path) -> None:
    lines = [HEADER, sync(10, 0.02), {**sync(20, 0.02), "phase": "frozen"}]
    told = " ".join(summary(read_record(write(tmp_path / "x.jsonl", *lines))))
    assert "Explorer moved it to 0.02, 5 times lower." in told
    assert "Since step 20 all values are frozen." in told
    watching = {**sync(10, 0.1), "phase": "observe", "would_be": {"lr/0": 0.4}}
    told = summary(read_record(write(tmp_path / "x.jsonl", HEADER, watching)))[0]
    assert told.endswith("Explorer only observed; it would set 0.04, 2.5 times lower.")
    going = write(tmp_path / "x.jsonl", HEADER, climb(1, 1e-4), climb(2, 2e-4))
    assert "The rate is climbing; it stands at 0.0002." in summary(read_record(going))[0]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([sync(10, loss=None)], "The training loss was never finite."),
        ([{**sync(10), "losses": []}], "The record has no loss yet"),
        ([sync(10), sync(20)], "The training loss is 2, as at the beginning (steps 10 to 20)."),
        ([sync(10), sync(20, loss=None)], "at the last sync it was not finite"),
    ],
)
def test_losses_in_words(tmp_path: Path, lines: list, words: str) -> None:
    assert words in summary(read_record(write(tmp_path / "x.jsonl", HEADER, *lines)))[1]


def test_numbers_and_ratios() -> None:
    assert [number(x) for x in (0.00886914, 1e-7, 1e12, 12345.6, None, math.nan)] == [
        "0.00887", "1e-7", "1e12", "1.23e4", "–", "–"]  # fmt: skip
    assert ratio(0.01, 0.01) == "1 times"
    assert ratio(0.2, 0.1) == "2 times higher"
    assert ratio(0.0, 0.1) == "–"


def test_a_long_record_is_thinned_and_keeps_its_spikes(tmp_path: Path) -> None:
    lines = [sync(10 * k, loss=500.0 if k == 7777 else 2.0) for k in range(1, 20_000)]
    record = read_record(write(tmp_path / "x.jsonl", HEADER, *lines))
    run = figure([record], ["x"])["runs"][0]
    assert len(run["x"]) < 5000
    loss = next(c for c in run["curves"] if c["kind"] == "training loss")
    assert run["x"][loss["y"].index(500.0)] == 77_770
    assert run["x"] == sorted({*run["x"]})
    assert (run["x"][0], run["x"][-1]) == (10, 199_990)
    json.dumps(run, allow_nan=False)


def test_where_it_is_written(tmp_path: Path) -> None:
    path = searched(tmp_path)
    assert command("report", path)[1] == f"Report: {tmp_path / 'x.html'}\n"
    assert command("report", path)[0] == 0
    assert command("report", tmp_path)[1] == f"Report: {tmp_path / 'runs.html'}\n"
    (tmp_path / "x.html").write_text("mine")
    code, said = command("report", path)
    assert code == 2
    assert "is there and is no report: name another file by --out" in said
    assert (tmp_path / "x.html").read_text() == "mine"
    code, said = command("report", path, "--out", tmp_path)
    assert code == 2
    assert f"{tmp_path} cannot be written (Is a directory): name another file by --out" in said
    # Who names a file means it.
    assert command("report", path, "--out", tmp_path / "x.html")[0] == 0


def test_names_with_brackets_stand_as_they_are(tmp_path: Path) -> None:
    path = searched(tmp_path / "runs[lr=0.1]" / "[b]", slope={"p[red]": 0.1}, t={"p[red]": 2.0},
                    values={"lr/0": 0.1, "p[red]": 0.2},
                    replica_values={"lr/0": [0.1], "p[red]": [0.2]})  # fmt: skip
    assert command("report", path) == (0, f"Report: {path.with_suffix('.html')}\n")
    code, said = command("show", path)
    assert code == 0
    assert ["p[red]", "0.2"] in [line.split()[:2] for line in said.splitlines()]


@pytest.mark.parametrize("name", ["report", "show"])
def test_what_cannot_be_shown_is_one_line(tmp_path: Path, name: str) -> None:
    for run in (tmp_path, tmp_path / "none", write(tmp_path / "y.jsonl"), "/dev/null"):
        code, said = command(name, run)
        assert code == 2
        assert said.startswith(f"hdet {name}: ")
        assert said.count("\n") == 1


def test_what_stands_in_a_record_is_escaped(tmp_path: Path) -> None:
    path = searched(tmp_path, decision="step 200: </script><b>&")
    path = path.rename(tmp_path / "<i>.jsonl")
    out = tmp_path / "page.html"
    assert command("report", path, "--out", out)[0] == 0
    html = out.read_text(encoding="utf-8")
    assert "</script><b>" not in html
    assert "<i>" not in html.replace("<i></i></div>", "")


def test_the_terminal_shows_curve_values_and_decisions(tmp_path: Path) -> None:
    path = searched(tmp_path, loss=1.5, decision="step 200: lr factor 0.1 -> 0.1")
    code, said = command("show", path)
    assert code == 0
    assert all(len(line) <= 80 for line in said.splitlines())
    assert "\x1b" not in said
    for words in ("x   step 200   phase hold", "▁", "█", "lr = 0.01", "- step 200: lr factor"):
        assert words in said


WHOLE = sync(20, decision="step 20: x", would_be={}, slope={"lr/0": 0.1}, t={"lr/0": 2.0},
             found=[0.05], excluded=[1], tried={"before": 2.0, "factors": [1], "losses": [1.5]},
             probes=[1.0, 2.0], probe_ms=1.0)  # fmt: skip
JUNK = (None, 0, -1, 1e308, 10**400, math.nan, "x", True, [], {}, [None], ["a"], [[2]],
        {"lr/0": "x"})  # fmt: skip


@pytest.mark.parametrize("key", [*HEADER, *WHOLE])
def test_damage_is_told_or_passed_over(tmp_path: Path, key: str) -> None:
    for junk in JUNK:
        header, line = dict(HEADER), dict(WHOLE)
        (header if key in HEADER else line)[key] = junk
        path = write(tmp_path / "x.jsonl", header, sync(10), line, sync(30))
        for name in ("report", "show"):
            code, said = command(name, path)
            assert code == 0 or (code == 2 and said.count("\n") == 1), (junk, said)


@pytest.mark.parametrize("name", ["report", "show"])
def test_no_torch_is_loaded(tmp_path: Path, name: str) -> None:
    code = (
        f"import sys; sys.argv[1:] = ['{name}', {str(searched(tmp_path))!r}]\n"
        "from hdet.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('loaded:', *{'torch', 'plotly', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("loaded:\n"), done.stdout
