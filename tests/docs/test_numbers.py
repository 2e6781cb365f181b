"""Tables that people have written into a guide are those of the record."""

import json

import pytest

from .pages import DOCS, ROOT

pytest.importorskip("pandas")
from benchmarks.robustness.analysis import recorded
from benchmarks.robustness.methods import OURS

STARTS = (1 / 30, 1, 30)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("LoRA", "finetune-lora"),
        ("last block", "finetune-block"),
        ("all weights", "finetune-full"),
    ],
)
def test_the_losses_of_fine_tuning_are_those_of_the_record(row, problem):
    file = ROOT / "benchmarks" / "records" / "robustness" / "summary.json"
    cells = recorded(json.loads(file.read_text()))
    cells = cells[cells["problem"] == problem].set_index(["method", "start"])["regret"]
    ours, plain = ([cells[method, start] for start in STARTS] for method in (OURS, "ddp"))
    told = [f"+{a:.1f} % (+{b:.0f} %)" for a, b in zip(ours, plain, strict=True)]
    line = f"| {row} | {' | '.join(told)} | +{sum(ours) / 3:.1f} % |"
    assert line in (DOCS / "guides" / "fine-tuning.md").read_text().splitlines()
