"""Numbers are those of the rounds, the page stands alone, and bad runs can be drawn too."""

import html
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from benchmarks.federated.runs.folder import Folder, Plan
from benchmarks.federated.runs.report import command, table, write_report
from benchmarks.federated.runs.summary import in_bytes, jain, jain_of_uniform, summarise
from hdet.seeding import generator
from tests.benchmarks.federated.runs.fake_rounds import SETTINGS, fake_folder, record


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    made = fake_folder(tmp_path_factory.mktemp("run"))
    write_report(made)
    return made


def test_final_numbers_are_those_computed_by_hand() -> None:
    accuracies = [50.0, 90.0, 90.0, 70.0]
    rounds = [record(t, accuracy=a) for t, a in enumerate(accuracies, 1)]
    found = summarise([*rounds[:3], replace(rounds[3], replied=1, train_loss=None)], SETTINGS)
    assert (found.accuracy, found.peak_accuracy, found.peak_round) == (70.0, 90.0, 2)
    assert found.last_accuracy == pytest.approx(75.0)
    assert (found.loss, found.worst_class, found.rounds) == (0.25, 40.0, 4)
    assert found.train_loss == 3.0 / 8
    assert (found.bytes_down, found.bytes_up, found.silent) == (8_000_000, 4_000_000, 1)
    assert found.counts == [4, 2, 1, 1, 0]
    # 8 selections of 5 clients: 8^2 / (5 (16 + 4 + 1 + 1)).
    assert found.jain == pytest.approx(64 / 110)


def test_the_mean_of_the_last_is_of_ten_rounds() -> None:
    rounds = [record(1, accuracy=float(t), round=t) for t in range(1, 21)]
    assert summarise(rounds, SETTINGS).last_accuracy == pytest.approx(15.5)


def test_jains_index_of_uniform_draws_is_near_what_is_said() -> None:
    clients, count, rounds = 40, 8, 50
    counts = torch.zeros(clients, dtype=torch.long)
    for t in range(rounds):
        counts[torch.randperm(clients, generator=generator(0, t))[:count]] += 1
    assert jain(counts.tolist()) == pytest.approx(
        jain_of_uniform(rounds, count / clients), abs=0.02
    )
    assert jain([3, 3, 3]) == pytest.approx(1.0)
    assert jain([6, 0, 0]) == pytest.approx(1 / 3)
    assert jain_of_uniform(7, 1.0) == 1.0


def test_bytes_are_written_as_people_do() -> None:
    numbers = (0, 999.4, 999.6, 38_560, 9_543_600, 2.5e9, 3.2e12)
    said = ["0 B", "999 B", "1 kB", "38.6 kB", "9.54 MB", "2.5 GB", "3200 GB"]
    assert [in_bytes(number) for number in numbers] == said


def test_the_page_stands_alone(folder: Folder) -> None:
    page = (folder.path / "report.html").read_text()
    assert not re.search(r"<script|<link|src=\"(?!data:)|https?://|url\(", page)
    assert page.count("data:image/png;base64,") == page.count('alt="') == 4
    assert str(folder.path) not in page
    text = html.unescape(page)
    for words in (
        "80.00 %",
        "80.00 % in round 4",
        "8 MB",
        "4 MB",
        "0.582",
        "12.5 s",
        "One run",
    ):
        assert words in text, words
    assert command(Plan(SETTINGS)) in text
    assert "Unfinished" not in page
    assert "No better than guessing" not in page


def test_the_command_makes_the_same_run_and_names_no_path() -> None:
    settings = replace(SETTINGS, data="/home/me/x", seed=3, proximal_mu=0.5)
    said = command(Plan(settings, "flower"))
    assert said.startswith("hdet federate --task digits --clients 5 --per-round 2 --alpha 0.5")
    assert "--seed 3" in said
    assert "--mu 0.5" in said
    assert said.endswith("--engine flower --data <path>")
    assert "/home/me" not in said


@pytest.mark.parametrize(
    "rounds",
    [
        [record(1, loss=math.nan, train_loss=None, alpha=0.0, replied=0)],
        [record(1), record(2, loss=math.nan), record(3, loss=1e30, beta=1e20)],
    ],
    ids=["nothing finite", "a gap and huge"],
)
def test_bad_runs_are_drawn_and_said(tmp_path: Path, rounds: list) -> None:
    page = write_report(fake_folder(tmp_path, rounds, finished=False)).read_text()
    assert f"{len(rounds)} of 4 rounds are over" in page
    assert "No better than guessing" in page
    for name in ("learning", "rates", "selection", "traffic"):
        assert (tmp_path / "plots" / f"{name}.png").stat().st_size > 5000
    # Strict JSON has no word for what is not finite.
    content = json.loads((tmp_path / "summary.json").read_text(), parse_constant=pytest.fail)
    assert content["loss"] in (None, 1e30)
    assert content["seconds"] is None


def test_a_run_without_rounds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no round in it yet"):
        write_report(fake_folder(tmp_path, [], finished=False))


def test_the_table_fits_a_terminal() -> None:
    wild = record(4, loss=1e38, alpha=1.23456789e-9, beta=1e20, bytes_down=10**15)
    console = Console(width=80)
    with console.capture() as capture:
        console.print(table(summarise([record(1), wild], SETTINGS), None))
    text = capture.get()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    for words in ("1e+38 nats", "1000000 GB", "1.235e-09, 1e+20", "not finished"):
        assert words in text, words
