"""The page stands alone, its numbers are those of the runs, the docs come from them."""

import html
import importlib.util
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from rich.console import Console

from benchmarks.core.parts import Picture, Section, Table, markdown
from benchmarks.federated.findings import Findings, findings
from benchmarks.federated.page import introduction, sections
from benchmarks.federated.report import command, tables, write_report
from benchmarks.federated.units import Folder, Plan, Unit
from tests.benchmarks.federated.made_up import GAINS, folder_of, of_unit

PLAN = Plan(["rates", "selection", "mu"], rate_seeds=2, selection_seeds=2, rounds=2)
PICTURES = [
    "accuracy-digits",
    "bytes",
    "curves",
    "differences",
    "gain-digits",
    "late",
    "starts",
]


def a_part(unit: Unit) -> dict | None:
    """Return a run of the task and strategies that a second suffices to draw."""
    s = unit.settings
    left_out = s.task == "fashion" or s.strategy not in {"fedavg", *GAINS}
    return None if unit.experiment == "rates" and left_out else of_unit(unit)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    made = folder_of(tmp_path_factory.mktemp("run"), PLAN, a_part)
    write_report(made)
    return made


def page_module() -> ModuleType:
    file = Path(__file__).parents[3] / "benchmarks" / "federated_page.py"
    spec = importlib.util.spec_from_file_location("federated_page", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def scale() -> dict:
    """Return a made-up record of what selections cost."""
    runs = [
        {
            "selector": name,
            "clients": size,
            "probes": 0,
            "cpu_ms": size / 100,
            "median_ms": size / 50,
            "first_call_ms": size / 10,
            "peak_mb": 300.4,
        }
        for name in "ABCDEFG"
        for size in (1000, 100_000)
    ]
    return {
        "count": 100, "calls": 5, "threads": 1, "load_average": 1.26, "machine": "two cores",
        "torch": "2.0", "command": "python it.py", "runs": runs,
    }  # fmt: skip


def test_every_picture_is_drawn(folder: Folder) -> None:
    drawn = sorted((folder.path / "plots").glob("*.png"))
    assert [file.stem for file in drawn] == PICTURES
    for file in drawn:
        assert file.read_bytes().startswith(b"\x89PNG")


def test_the_page_stands_alone(folder: Folder) -> None:
    page = (folder.path / "report.html").read_text()
    assert not re.search(r"<script|<link|src=\"(?!data:)|https?://", page)
    assert page.count("data:image/png;base64,") == page.count('alt="') == len(PICTURES)
    assert str(folder.path) not in page
    text = html.unescape(page)
    for words in (
        "FedHyper (G + SL + CL)",
        "+5.05 (+4.41 to +5.69)",
        "Dirichlet draw of concentration 0.5",
        "Dirichlet draw of concentration 0.1",
        "momentum 0.9, a rate of 0.05 that falls to 0.5 of itself",
        "1050 runs have no result yet",
        command(PLAN),
    ):
        assert words in text, words
    assert not re.search(r"\b(nan|inf|None)\b", text)


def test_the_summary_is_strict_json(folder: Folder) -> None:
    text = (folder.path / "summary.json").read_text()
    found = json.loads(text, parse_constant=pytest.fail)
    assert found["missing"] == 1050
    assert found["command"] == command(PLAN)
    assert {row["task"] for row in found["rates"]} == {"digits"}
    assert [one["comparisons"] for one in found["verdicts"]] == [25, 1, 1, 4] + [4] * 6


def test_the_command_makes_the_run_again() -> None:
    assert command(replace(PLAN, experiments=["mu"])) == (
        "python -m benchmarks federated --experiments mu --seeds 2 --selection-seeds 2 --rounds 2"
    )


def test_the_tables_fit_a_terminal(folder: Folder) -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    for one in tables(findings(folder)):
        console.print(one)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert re.search(
        r"FedHyper \(G \+ SL \+ CL\) +62\.9. ± 0\.1. +\+5\.05 +55\.8. +1\.00", text
    )
    assert re.search(r"HeteRo-Select +83\.67 ± 0\.67 +1\.05 ± 0\.05 +40\.00", text)


def test_what_holds_and_what_does_not_is_said(folder: Folder) -> None:
    found = findings(folder)
    shown = {section.title: section for section in sections(found)}
    wanted = shown["Wanted and reached"].parts
    assert str(wanted[0]).startswith(
        "Of 10 goals 7 are reached by the means over seeds, 7 of them clearly"
    )
    assert "31 comparisons on rates and 24 comparisons on selection" in str(wanted[0])
    assert str(wanted[1]).startswith("Missed: over 1.1 times fewer rounds")
    assert str(wanted[1]).count("worst class than") == 2
    text = " ".join(map(str, shown["FedHyper from every start"].parts))
    names = "FedAvg, FedExP, FedAdam and Decay of the local rate"
    assert f"FedHyper (G + SL + CL) is clearly above {names}." in text
    assert "+5.05 from beta 0.001" in text
    assert re.search(r"own: FedHyper \(G \+ SL \+ CL\) 77\.1. %, FedAvg 72\.1. %,", text)
    text = " ".join(map(str, shown["Who is asked to train"].parts))
    assert "HeteRo-Select is more accurate than Random" in text
    assert "By worst class, HeteRo-Select is not told apart from Random" in text
    levels, less, against = (
        part
        for part in shown["FedProx's term under selection"].parts
        if isinstance(part, Table)
    )
    assert levels.head == ["selector", "mu = 0", "mu = 0.01", "mu = 0.1", "mu = 0.5"]
    assert less.rows[0][1:] == [
        "–",
        "-0.10 (-0.10 to -0.10)",
        "-1.00 (-1.00 to -1.00)",
        "-5.00 (-5.00 to -5.00)",
    ]
    assert against.rows[0][3] == "+4.02 (+3.77 to +4.27)"
    assert against.rows[-1] == ["HeteRo-Select", "–", "–", "–", "–"]


def test_the_introduction_names_the_data() -> None:
    settings = {
        "mu": {"mnist": {"clients": 7, "pool": 2, "hidden": 5}},
        "rates": {"digits": {"clients": 7, "pool": 1, "hidden": 5}},
    }
    (text,) = introduction(Findings([], [], [], [], settings, 0))
    assert "on 7 simulated clients" in text
    assert "28 x 28 averaged to 14 x 14) and the digits of scikit-learn (8 x 8)." in text


def test_one_experiment_alone_makes_a_page(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, replace(PLAN, experiments=["mu"]))
    assert findings(folder).selection == []
    # The term of the other experiment's runs is not there.
    shown = sections(findings(folder))
    assert [section.title for section in shown] == [
        "FedProx's term under selection",
        "What this does not show",
    ]
    table = shown[0].parts[1]
    assert isinstance(table, Table)
    assert table.head == ["selector", "mu = 0", "mu = 0.01", "mu = 0.5"]


def test_without_a_whole_grid_there_is_no_report(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, PLAN, lambda unit: None)
    with pytest.raises(ValueError, match="has no whole grid"):
        write_report(folder)


def test_sections_as_markdown() -> None:
    parts = ["Words.", Table(["a", "b"], [["1", "2"], ["3", "4"]], [1]), Picture("p", "Seen")]
    shown = markdown(Section("Title", [*parts, Picture("q", "Gone")]), {"p": "images/p.png"})
    assert shown == [
        "## Title", "", "Words.", "", "| a | b |", "|---|---|", "| 1 | 2 |", "| **3** | 4 |",
        "", "![Seen](images/p.png)", "",
    ]  # fmt: skip


def test_the_documentation_comes_from_the_record(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = page_module()
    monkeypatch.syspath_prepend(str(Path(str(module.__file__)).parent))
    monkeypatch.setattr(module, "write_report", lambda folder: None)
    (tmp_path / "selection_scale.json").write_text(json.dumps(scale()))
    images = tmp_path / "images"
    images.mkdir()
    module.take(folder.path, tmp_path, images)
    page = module.federated_page(tmp_path, images)
    shown = re.findall(r"\]\(images/federated-(.+?)\.png\)", page)
    assert sorted(shown) == sorted([*PICTURES, "selection-scale"])
    assert "**Unfinished: 1050 runs are missing.**" in page
    assert re.search(r"\| \*\*FedHyper \(G \+ SL \+ CL\)\*\* \| 62\.9. ± 0\.1. \|", page)
    assert "| A | 10.0 | 1,000.0 | 2,000 | 10,000 | 300 | 0 |" in page
    assert page.index("## What a selection costs") < page.index("## What this does not show")
    assert not re.search(r"\b(nan|inf|None)\b", page)
    for line in page.splitlines():
        if line.startswith("|"):
            assert "||" not in line
