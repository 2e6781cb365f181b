"""Trackers by their own packages, read back from what they have written."""

import importlib
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from hdet.integrations.trackers import MLflow, TensorBoard, Tracker, WandB
from tests.rank_runner import run_ranks
from tests.ranks.searched import Run

pytestmark = [pytest.mark.ranks, pytest.mark.filterwarnings("ignore")]

END = 130


class Kept(Tracker):
    """Keeps what it is to log."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.events: list[tuple[int, str]] = []

    def numbers(self, found, step):
        self.rows.append((step, found))

    def words(self, event, step):
        self.events.append((step, event))


def _told(folder: str) -> dict[str, Any]:
    calls, kept = [], Kept()

    def on_sync(explorer):
        calls.append((explorer.metrics()["step"], explorer.metrics()["phase"]))
        kept(explorer)

    file = Path(folder) / "runs" / "x.jsonl"
    run = Run(explore=("lr",), name="one group", on_sync=on_sync, log=file)
    run.train(range(END))
    # One loss out of all proportion ends in a roll-back at the next sync.
    run.explorer.observe(math.nan if dist.get_rank() else 1e4)
    run.train(range(END, END + 12))
    dist.barrier()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return {"calls": calls, "rows": kept.rows, "events": kept.events, "lines": lines,
            "phases": run.phases, "rates": run.rates}  # fmt: skip


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> list[dict[str, Any]]:
    return run_ranks(_told, 2, str(tmp_path_factory.mktemp("told")))


def test_every_rank_is_called_at_each_step_of_the_search_and_at_each_sync(told):
    searching = told[0]["phases"].index("track")
    # The last step of the search is told as the first of what follows.
    expected = [*range(1, searching + 1), *range(searching + 6, END + 13, 6)]
    for rank in told:
        assert [step for step, _ in rank["calls"]] == expected
        assert rank["calls"][searching - 1][1] == "track"


def test_the_first_process_alone_logs(told):
    first, second = told
    assert [step for step, _ in first["rows"]] == [step for step, _ in first["calls"]]
    assert second["rows"] == second["events"] == []


def test_the_replicas_rates_are_those_in_effect(told):
    for (step, found), *_ in zip(told[0]["rows"], strict=True):
        for r, rank in enumerate(told):
            if step < len(rank["rates"]):
                assert found[f"hdet/lr/replica/{r}"] == pytest.approx(rank["rates"][step][0])


def test_the_end_of_the_search_is_an_event(told):
    (_, event), *_ = told[0]["events"]
    assert "the search is over: learning rate" in event


def test_the_record_has_a_line_for_each_call(told):
    header, *lines = told[0]["lines"]
    assert header["replicas"] == 2
    assert header["explored"] == ["lr/0"]
    assert [line["step"] for line in lines] == [step for step, _ in told[0]["calls"]]
    assert told[1]["lines"] == told[0]["lines"]  # one file, by one process


# --- their own packages


def _tracked(folder: str) -> dict[str, Any]:
    os.environ |= {"MLFLOW_ALLOW_FILE_STORE": "true", "WANDB_MODE": "offline",
                   "WANDB_DIR": folder, "WANDB_SILENT": "true"}  # fmt: skip
    first, kept = dist.get_rank() == 0, Kept()
    board: Any = importlib.import_module("torch.utils.tensorboard")
    writer: Any = board.SummaryWriter(folder) if first else None
    wandb: Any = importlib.import_module("wandb")
    run: Any = wandb.init(project="x", dir=folder) if first else None
    mlflow: Any = importlib.import_module("mlflow")
    mlflow.set_tracking_uri(f"file:{folder}/mlruns")
    client: Any = mlflow.MlflowClient() if first else None
    run_id = mlflow.start_run().info.run_id if first else ""
    trackers = [TensorBoard(writer), WandB(run), MLflow(client, run_id), kept]

    def on_sync(explorer):
        if explorer.metrics()["step"] >= END - 40:  # each call takes MLflow a while
            for tracker in trackers:
                tracker(explorer)

    Run(explore=("lr",), name="one group", on_sync=on_sync).train(range(END))
    if not first:
        return {}
    writer.flush()
    loader: Any = importlib.import_module("tensorboard.backend.event_processing")
    loader = importlib.import_module(f"{loader.__name__}.event_accumulator")
    events = loader.EventAccumulator(folder)
    events.Reload()
    base = "hdet/lr/base"
    found = {
        "kept": [(step, row[base]) for step, row in kept.rows],
        "tensorboard": [(e.step, e.value) for e in events.Scalars(base)],
        "panels": "custom_scalars__config__" in events.Tags()["tensors"],
        "mlflow": [(m.step, m.value) for m in client.get_metric_history(run_id, base)],
        "wandb": dict(run.summary)[base],
    }
    run.finish()
    return found


@pytest.fixture(scope="module")
def tracked(tmp_path_factory) -> dict[str, Any]:
    for package in ("tensorboard", "wandb", "mlflow"):
        pytest.importorskip(package)
    return run_ranks(_tracked, 2, str(tmp_path_factory.mktemp("tracked")))[0]


def test_tensorboard_has_the_curves_and_a_panel_for_all_replicas(tracked):
    steps, values = zip(*tracked["kept"], strict=True)
    assert [step for step, _ in tracked["tensorboard"]] == [*steps]
    assert [value for _, value in tracked["tensorboard"]] == pytest.approx(values)
    assert tracked["panels"]


def test_mlflow_has_the_curves(tracked):
    assert tracked["mlflow"] == tracked["kept"]


def test_weights_and_biases_has_the_last_value(tracked):
    assert tracked["wandb"] == pytest.approx(tracked["kept"][-1][1])
