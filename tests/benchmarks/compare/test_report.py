"""Numbers are those of the runs, sentences follow them, the page stands alone."""

import html
import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from rich.console import Console

from benchmarks.compare.configurations import configurations
from benchmarks.compare.findings import findings
from benchmarks.compare.records import RunFolder, mean_and_error
from benchmarks.compare.report import PAPER, missing, table, write_report
from benchmarks.compare.rows import Row, difference, number, power, summarise, with_error
from benchmarks.tasks import Task
from tests.benchmarks.compare.fake_run import LOSSES, ROWS, fake_run

WARM = {"hdet-full", "hdet-no-auto-lr", "ddp-warm-low", "averaging-only", "warm-init"}


def row(name: str, *losses: float, diverged: int = 0) -> Row:
    """Return a row with these losses; a single one stands for three seeds around it."""
    found = [losses[0] + x for x in (-0.1, 0, 0.1)] if len(losses) == 1 else losses
    return seeds(name, dict(enumerate(found)), diverged)


def seeds(name: str, losses: dict[int, float], diverged: int = 0) -> Row:
    mean, error = mean_and_error(list(losses.values()))
    return Row(
        name, name.upper(), len(losses), 1e-2, 1e-4, mean, error, mean, error,
        diverged, 9.0, 0.1, name in WARM, losses,
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
    assert content["rows"][0]["losses"] == {"0": 3.294, "1": 3.298}
    assert content["missing"] == ["DDP at 4.3 times the low rate, seed 1"]
    assert content["missing"] == missing(folder)
    assert content["findings"] == findings(summarise(folder))


def test_a_difference_is_the_mean_over_common_seeds() -> None:
    first = seeds("a", {0: 3.0, 1: 5.0, 3: 9.0})
    second = seeds("b", {0: 3.3, 1: 5.1, 2: 1.0})
    seen = difference(first, second)
    assert seen is not None
    assert (seen.first, seen.second) == pytest.approx((4.0, 4.2))
    # -0.3 and -0.1: their standard error is half their distance.
    assert (seen.mean, seen.error, seen.seeds) == pytest.approx((-0.2, 0.1, 2))
    assert difference(first, seeds("c", {2: 1.0})) is None


def test_what_all_rows_of_a_seed_share_drops_out() -> None:
    low = row("baseline-low", 3.0, 4.0, 5.0)
    (said,) = findings([low, row("hdet-no-warm-start", 2.99, 3.98, 4.99)])
    assert said == (
        "Shown: HDET-NO-WARM-START ends lower than the paper's reference, "
        "BASELINE-LOW: 3.9867 against 4.0000, difference -0.0133 ± 0.0033 (3 seeds)."
    )


def test_findings_flip_when_the_numbers_flip() -> None:
    low = row("baseline-low", 3.2)
    (good,) = findings([low, row("hdet-no-warm-start", 3.1)])
    (bad,) = findings([low, row("hdet-no-warm-start", 3.3)])
    (level,) = findings([low, row("hdet-no-warm-start", 3.1, 3.2, 3.25)])
    assert good.startswith("Shown: ")
    assert bad.startswith("Not shown, the reverse is: ")
    assert level.startswith("Not shown, within noise: ")


@pytest.mark.parametrize("name", ["hdet-full", "hdet-no-auto-lr"])
def test_warm_rows_are_held_against_both_low_rates(name: str) -> None:
    rows = [row("baseline-low", 3.4), row("ddp-warm-low", 3.1), row(name, 3.2)]
    paper, fair = findings(rows)
    assert paper.startswith(f"Shown: {name.upper()} ends lower than the paper's refer")
    assert "BASELINE-LOW (but has trained longer): " in paper
    assert fair.startswith(f"Not shown, the reverse is: {name.upper()} ends lower than")
    assert "from the same checkpoint, DDP-WARM-LOW: " in fair
    assert "longer" not in fair


def test_a_cold_row_is_not_held_against_the_warm_low_rate() -> None:
    assert findings([row("ddp-warm-low", 3.1), row("hdet-no-warm-start", 3.2)]) == []


@pytest.mark.parametrize(
    ("loss", "diverged", "verdict"),
    [
        (3.5, 3, "Shown"),
        (math.nan, 1, "Shown in part"),
        (3.5, 0, "Shown"),
        (3.1, 0, "Not shown, the reverse is"),
    ],
)
def test_plain_ddp_at_the_high_rate(loss: float, diverged: int, verdict: str) -> None:
    rows = [row("baseline-low", 3.3), row("baseline-high", loss, diverged=diverged)]
    (said,) = findings(rows)
    assert said.startswith(f"{verdict}: ")
    assert (f"diverges ({diverged} of 3) or ends" in said) == (diverged > 0)


def test_plain_ddp_at_the_high_rate_can_be_level() -> None:
    (said,) = findings([row("baseline-low", 3.3), row("baseline-high", 3.1, 3.3, 3.5)])
    assert said.startswith("Not shown, within noise: ")


def test_one_seed_shows_nothing_and_says_so() -> None:
    one = seeds("hdet-no-warm-start", {0: 3.2})
    (way,) = findings([row("baseline-low", 3.4), one])
    (other,) = findings([row("baseline-low", 3.2), one])
    assert way.startswith("Points that way: ")
    assert other.startswith("Points the other way: ")
    for said in (way, other):
        assert said.endswith("(one seed, no error bar).")
    # Only seed 0 is in both.
    assert "3.2000 against 3.3000, difference -0.1000 (" in way


def test_rows_without_a_common_seed_are_not_compared() -> None:
    rows = [seeds("baseline-low", {0: 3.3}), seeds("hdet-full", {1: 3.2})]
    assert findings(rows) == []


def test_full_is_held_against_the_better_of_its_ablations() -> None:
    rows = [row("hdet-no-auto-lr", 3.2), row("hdet-no-warm-start", 3.3)]
    (said,) = findings([*rows, row("hdet-full", 3.25)])
    assert said.startswith("Not shown, the reverse is: HDET-FULL")
    assert "HDET-NO-AUTO-LR: " in said
    (said,) = findings([*rows, row("hdet-full", 3.1)])
    assert said.startswith("Shown: HDET-FULL")


def test_controls_are_held_against_the_best_plain_rate() -> None:
    rows = [row("hdet-full", 3.2), row("ddp-mid-1", 3.3), row("ddp-mid-2", 3.1)]
    (said,) = findings(rows)
    assert said.startswith("Not shown, the reverse is: ")
    assert "DDP-MID-2 (but has trained longer): " in said
    (said,) = findings([row("hdet-full", 3.2), row("averaging-only", 3.0, 3.2, 3.5)])
    assert said.startswith("Not shown, within noise: ")
    assert "longer" not in said


@pytest.mark.parametrize(
    ("losses", "verdict"),
    [
        ((3.3,), "Not shown"),
        ((3.0, 3.2, 3.4), "Shown, level within noise"),
        ((3.1,), "Shown"),
    ],
)
def test_a_start_too_low_is_held_against_the_best(
    losses: tuple[float, ...], verdict: str
) -> None:
    tenth = row("auto-lr-from-tenth", *losses)
    rows = [row("baseline-low", 3.4), row("hdet-no-auto-lr", 3.2), tenth]
    said = findings(rows)[-1]
    assert said.startswith(f"{verdict}: AUTO-LR-FROM-TENTH catches up with")
    assert "HDET-NO-AUTO-LR (which has trained longer): " in said
    (against_same_rate,) = findings([row("ddp-tenth", 3.7), tenth])
    assert against_same_rate.startswith("Shown: ")


def test_rows_that_are_missing_are_left_out() -> None:
    assert findings([]) == []
    assert findings([row("hdet-full", 3.2)]) == []


def test_a_loss_that_is_not_finite_is_higher_than_any() -> None:
    none, fine = math.nan, 3.3
    for low, full, verdict in (
        (none, none, "Not shown, neither is finite"),
        (none, fine, "Shown"),
        (fine, none, "Not shown, the reverse is"),
    ):
        (said,) = findings([row("baseline-low", low), row("hdet-full", full)])
        assert said.startswith(f"{verdict}: ")
        assert "not finite" in said
        assert "difference" not in said


def test_numbers_are_short_and_alike() -> None:
    assert number(3.2961) == "3.2961"
    assert number(42.39999) == "42.400"
    assert number(-9876.54) == "-9876.5"
    assert number(-0.5, "+") == "-0.5000"
    assert number(123456.0) == "1.2e5"
    assert number(math.nan) == "not finite"
    assert power(0.00009) == "9.0e-5"
    assert power(3e38, "+") == "+3.0e38"
    assert with_error(42.4, 0.71) == "42.400 ± 0.710"
    assert with_error(0.5, 12.0, "+") == "+0.500 ± 12.000"
    assert with_error(2e4, 3.0) == "2.0e4 ± 3.0e0"
    assert with_error(3.2, math.nan) == "3.2000"


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
    assert "python -m benchmarks compare --task fake --steps 200 --seeds 2" in page
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


def test_the_page_shows_no_path_of_the_users(tmp_path: Path) -> None:
    losses = {"baseline-low": LOSSES["baseline-low"]}
    page = write_report(fake_run(tmp_path, losses, 20, data="/home/me/x")).read_text()
    assert "/home/me" not in page
    assert "--only baseline-low --data &lt;path&gt;</pre>" in page


@pytest.mark.parametrize("task", ["fake", "movielens"])
def test_the_page_says_where_seeds_share_their_data(tmp_path: Path, task: str) -> None:
    losses = {name: LOSSES[name] for name in ("baseline-low", "hdet-full")}
    page = write_report(fake_run(tmp_path, losses, 20, task=task)).read_text()
    assert ("initial weights and noise only" in page) == (task == "movielens")


def printed(rows: list[Row], width: int) -> str:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(table(rows))
    return capture.get()


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("loss", [3.2961, 42.4, 9876.5, 1.2e38, math.nan])
def test_the_table_fits_a_terminal(width: int, loss: float) -> None:
    rates = SimpleNamespace(low_lr=1e-2, high_lr=9e-2)
    rows = [
        Row(
            each.name, each.label, 3, each.lr, each.lr, loss, loss / 3, loss, loss / 3,
            3, 1234.5, 0.131, each.warm_start, {},
        )
        for each in configurations(cast(Task, rates), 1 / 9)
    ]  # fmt: skip
    text = printed(rows, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for each in rows:
        (line,) = [x for x in text.splitlines() if x.startswith(f"{each.configuration} ")]
        said = with_error(loss, loss / 3).replace(" ± ", "±")
        cells = line.removeprefix(each.configuration).replace("not finite", "nan")
        assert cells.split() == [
            power(each.mean_lr), *[said.replace("not finite", "nan")] * 2, "3/3", "1234",
            "13.1",
        ]  # fmt: skip


def test_the_table_reads_no_markup(folder: RunFolder) -> None:
    text = printed(summarise(folder), 80)
    for part in ("3.2960±0.0020", "42.400±0.710", "not finite", "<b>no</b>", "2/2"):
        assert part in text
