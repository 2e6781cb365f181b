"""Numbers are those of the runs, sentences follow them, the page stands alone."""

import html
import json
import math
import re
from pathlib import Path

import pytest
from fake_run import LOSSES, ROWS, fake_run
from rich.console import Console

from hdet.bench.records import RunFolder
from hdet.bench.report import (
    PAPER,
    Row,
    findings,
    missing,
    summarise,
    table,
    write_report,
)


def row(name: str, loss: float, error: float = 0.001, **more: int) -> Row:
    counts = {"seeds": 3, "diverged": 0} | more
    return Row(
        name, name.upper(), counts["seeds"], 1e-2, 1e-4, loss, error, loss, error,
        counts["diverged"], 9.0, 0.1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    made = fake_run(tmp_path_factory.mktemp("run"))
    write_report(made)
    return made


def test_summary_numbers_are_those_computed_by_hand(folder: RunFolder) -> None:
    rows = {r.name: r for r in summarise(folder)}
    assert list(rows) == [r.name for r in ROWS]
    low = rows["baseline-low"]
    # Two values: their standard error is half their distance.
    assert low.train_loss == pytest.approx(3.296)
    assert low.train_error == pytest.approx(0.002)
    assert low.held_out_loss == pytest.approx(3.396)
    assert low.held_out_error == pytest.approx(0.002)
    assert (low.seeds, low.diverged, low.seconds) == (2, 0, 12.5)
    assert (low.mean_lr, low.final_lr) == pytest.approx((0.005, 2.5e-5))
    assert rows["hdet-full"].sync_share == pytest.approx(0.03)
    assert rows["warm-init"].diverged == 2
    assert math.isnan(rows["warm-init"].train_loss)
    assert rows["ddp-mid-2"].seeds == 1
    assert rows["ddp-mid-2"].train_loss == 3.3
    assert math.isnan(rows["ddp-mid-2"].train_error)


def test_summary_file_is_strict_json(folder: RunFolder) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    text = (folder.path / "summary.json").read_text()
    content = json.loads(text, parse_constant=refuse)
    assert content["rows"][2]["train_loss"] is None
    assert content["rows"][0]["train_loss"] == pytest.approx(3.296)
    assert content["missing"] == ["DDP at 4.3 times the low rate, seed 1"]
    assert content["missing"] == missing(folder)
    assert content["findings"] == findings(summarise(folder))


def test_findings_flip_when_the_numbers_flip() -> None:
    (good,) = findings([row("baseline-low", 3.3), row("hdet-no-auto-lr", 3.2)])
    (bad,) = findings([row("baseline-low", 3.2), row("hdet-no-auto-lr", 3.3)])
    (level,) = findings([row("baseline-low", 3.2), row("hdet-no-auto-lr", 3.2025)])
    assert good == (
        "Shown: HDET-NO-AUTO-LR reaches a lower training loss than BASELINE-LOW: "
        "3.2000 ± 0.0010 against 3.3000 ± 0.0010 (n = 3, difference -0.1000 ± 0.0014)."
    )
    assert bad.startswith("Not shown, the reverse is: ")
    assert level.startswith("Not shown, within noise: ")


@pytest.mark.parametrize(
    ("loss", "diverged", "verdict"),
    [
        (3.5, 3, "Shown"),
        (math.nan, 1, "Shown in part"),
        (3.5, 0, "Shown"),
        (3.3, 0, "Not shown, within noise"),
        (3.1, 0, "Not shown, the reverse is"),
    ],
)
def test_plain_ddp_at_the_high_rate(loss: float, diverged: int, verdict: str) -> None:
    rows = [row("baseline-low", 3.3), row("baseline-high", loss, diverged=diverged)]
    (said,) = findings(rows)
    assert said.startswith(f"{verdict}: ")
    assert f"diverged in {diverged} of 3" in said


def test_one_seed_shows_nothing_and_says_so() -> None:
    one = {"error": math.nan, "seeds": 1}
    (way,) = findings([row("baseline-low", 3.3), row("hdet-no-auto-lr", 3.2, **one)])
    (other,) = findings([row("baseline-low", 3.1), row("hdet-no-auto-lr", 3.2, **one)])
    assert way.startswith("Points that way: ")
    assert other.startswith("Points the other way: ")
    assert "one seed: no error bar" in way
    assert "one seed: no error bar" in other


def test_full_is_held_against_the_better_of_its_ablations() -> None:
    rows = [row("hdet-no-auto-lr", 3.2), row("hdet-no-warm-start", 3.3)]
    (said,) = findings([*rows, row("hdet-full", 3.25)])
    assert said.startswith("Not shown, the reverse is: HDET-FULL")
    assert "HDET-NO-AUTO-LR" in said
    (said,) = findings([*rows, row("hdet-full", 3.1)])
    assert said.startswith("Shown: HDET-FULL")


def test_controls_are_held_against_the_best_plain_rate() -> None:
    rows = [row("hdet-full", 3.2), row("ddp-mid-1", 3.3), row("ddp-mid-2", 3.1)]
    (said,) = findings(rows)
    assert said.startswith("Not shown, the reverse is: ")
    assert "DDP-MID-2" in said
    rows = [row("hdet-full", 3.2), row("averaging-only", 3.2005)]
    assert findings(rows)[0].startswith("Not shown, within noise: ")


@pytest.mark.parametrize(
    ("loss", "verdict"),
    [(3.3, "Not shown"), (3.2, "Shown, level within noise"), (3.1, "Shown")],
)
def test_a_start_too_low_is_held_against_the_best(loss: float, verdict: str) -> None:
    tenth = row("auto-lr-from-tenth", loss)
    (said,) = findings([row("baseline-low", 3.4), row("hdet-no-auto-lr", 3.2), tenth])[
        1:
    ]
    assert said.startswith(f"{verdict}: ")
    assert "HDET-NO-AUTO-LR" in said
    against_same_rate = findings([row("ddp-tenth", 3.7), tenth])
    assert [s[:6] for s in against_same_rate] == ["Shown:"]


def test_unequal_training_is_said(folder: RunFolder) -> None:
    said = findings(summarise(folder))
    top = "HDET (full) had its checkpoint's steps on top"
    assert [top in s for s in said if "HDET (full) reaches" in s] == [True]
    assert not any(top in s for s in said if "averaging without" in s)


def test_rows_that_are_missing_are_left_out() -> None:
    assert findings([]) == []
    assert findings([row("hdet-full", 3.2)]) == []


def test_both_not_finite_is_no_finding() -> None:
    rows = [row("baseline-low", math.nan), row("hdet-full", math.nan)]
    assert findings(rows)[0].startswith("Not shown, neither is finite: ")


def test_the_page_loads_nothing(folder: RunFolder) -> None:
    page = (folder.path / "report.html").read_text()
    links = re.findall(r"""(?:src|href)\s*=\s*["']([^"']{0,40})""", page)
    assert len(links) == 5
    assert {link[:22] for link in links} == {"data:image/png;base64,"}
    assert "<script" not in page
    assert "url(" not in page
    assert page.count('alt="') == 5


def test_the_page_has_every_row_and_finding_escaped(folder: RunFolder) -> None:
    page = (folder.path / "report.html").read_text()
    text = html.unescape(page).replace("\u00a0", " ")
    for configuration in ROWS:
        assert configuration.label in text
        assert configuration.note in text
    for sentence in findings(summarise(folder)):
        assert sentence.partition(":")[2] in text
    assert "<b>" not in page
    assert "<i>" not in page
    assert "&lt;b&gt;no&lt;/b&gt;" in page
    assert "hdet compare --task fake --steps 200 --seeds 2" in page
    assert "DDP at 4.3 times the low rate, seed 1" in text
    for lr, loss in PAPER.values():
        assert f'<td class="group">{lr}</td><td>{loss}</td>' in page


def test_a_finished_comparison_misses_nothing(tmp_path: Path) -> None:
    losses = {"baseline-low": LOSSES["baseline-low"]}
    made = fake_run(tmp_path, losses, steps=20)
    page = write_report(made).read_text()
    assert "Unfinished" not in page
    assert "No two rows" in page


def test_writing_twice_changes_nothing(tmp_path: Path) -> None:
    made = fake_run(tmp_path, {"hdet-full": [3.3, None]}, steps=40, auto_lr_after=20)
    first = write_report(made).read_bytes(), (tmp_path / "summary.json").read_bytes()
    files = sorted(tmp_path.rglob("*"))
    again = write_report(made).read_bytes(), (tmp_path / "summary.json").read_bytes()
    assert first == again
    assert files == sorted(tmp_path.rglob("*"))


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    for call in (summarise, write_report):
        with pytest.raises(ValueError, match="is not a run folder"):
            call(RunFolder(tmp_path))


def test_the_table_fits_a_terminal_of_100_columns(folder: RunFolder) -> None:
    console = Console(width=100, record=True, file=None, quiet=False)
    with console.capture() as capture:
        console.print(table(summarise(folder)))
    text = capture.get()
    assert max(map(len, text.splitlines())) <= 100
    for part in (
        "3.2960 ± 0.0020",
        "42.4000 ± 0.7100",
        "not finite",
        "<b>no</b>",
        "2/2",
    ):
        assert part in text
