"""`HDETCallback` in Lightning's Trainer on two ranks, by the values that are right."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.integrations import lightning_runs as runs
from tests.integrations.lightning_runs import EPOCH
from tests.integrations.loops import LR, SYNC, reader
from tests.rank_runner import run_ranks

pytestmark = [pytest.mark.ranks, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("lightning")


@pytest.fixture(scope="module")
def found(folder):
    return run_ranks(runs.all_runs, 2, str(folder))


@pytest.fixture
def of(found):
    """Return what both ranks have seen in a run."""
    return reader(found)


def same(runs, key):
    return all(run[key] == runs[0][key] for run in runs)


def own_means(run, first, last):
    losses = run["losses"][first:last]
    return sum(losses) / len(losses)


# --- training


def test_the_search_with_its_trials_is_that_of_a_plain_loop_to_the_last_bit(of):
    both = of("search")
    assert any("trial 1" in line for line in both[0]["lines"])
    for run in both:
        assert run["weights"] == run["plain"]["weights"]
        assert run["metrics"]["values"] == run["plain"]["metrics"]["values"]
        assert run["metrics"]["phase"] == "track"


def test_after_fit_all_replicas_are_one_at_the_base_values(of):
    for name in ("search", "evaluation", "resume", "accumulation", "manual", "one_cycle"):
        assert same(of(name), "weights"), name
    for run in of("evaluation"):
        assert run["rates"] == run["metrics"]["base_lr"]
        assert len(set(run["metrics"]["replica_lr"][0])) == 2


@pytest.mark.parametrize("name", ["evaluation", "one_cycle", "older_package"])
def test_explorer_sees_each_replicas_own_losses(of, name):
    both = of(name)
    expected = [own_means(run, SYNC, 2 * SYNC) for run in both]
    assert both[0]["told"][2 * SYNC - 1] == pytest.approx(expected, rel=1e-6)
    assert expected[0] != expected[1]


def test_under_accumulation_losses_have_their_scale_and_each_optimizer_step_is_one(of):
    both = of("accumulation")
    # Two epochs of 20 micro-batches: six steps of three, and one of two.
    assert both[0]["steps"] == both[0]["metrics"]["step"] == 2 * SYNC
    expected = [own_means(run, 3 * SYNC - 1, None) for run in both]
    assert both[0]["told"][-1] == pytest.approx(expected, rel=1e-6)


def test_under_a_grad_scaler_losses_have_their_scale(of):
    both = of("scaled")
    assert both[0]["metrics"]["step"] == SYNC
    expected = [own_means(run, 0, SYNC) for run in both]
    assert both[0]["told"][-1] == pytest.approx(expected, rel=1e-3)


def test_under_manual_optimization_the_loop_gives_the_losses_and_validation_is_equal(of):
    both = of("manual")
    assert both[0]["metrics"]["step"] == 4 * SYNC
    assert same(both, "evaluated")
    assert both[0]["metrics"]["phase"] in ("climb", "settle", "track")


# --- evaluation and logs


def test_validation_and_test_see_equal_weights_and_training_does_not_notice(of):
    both = of("evaluation")
    # Two batches, eight times, without those before training.
    assert len(both[0]["during"]) == 2 * 8 + 2
    assert same(both, "during")
    assert both[0]["own"][29] != both[1]["own"][29]
    # The sixth is after 30 steps, two after a sync.
    assert both[0]["during"][10][0] not in [run["own"][29] for run in both]
    for run in both:
        assert run["weights"] == run["plain"]["weights"]
        assert run["metrics"]["values"] == run["plain"]["metrics"]["values"]


def test_a_test_after_fit_sees_the_final_weights(of):
    for run in of("evaluation"):
        assert run["last"]
        assert all(weights == run["after"] for weights, _ in run["last"])
        assert run["weights"] == run["after"]


def test_what_was_found_is_among_the_callback_metrics(of):
    for run in of("evaluation"):
        assert run["home"]["hdet/found/0"] == pytest.approx(run["home"]["found()"])
        assert run["home"]["hdet/lr_factor/base"] == pytest.approx(
            run["metrics"]["values"]["lr/0"]
        )


_NOTEBOOK = """
import warnings
from tests.integrations import lightning_runs as runs
warnings.simplefilter("ignore")
class Quiet(runs.Module):
    def training_step(self, batch, batch_idx):
        return runs.loss_of(self, batch)
    def on_train_batch_end(self, *_):
        pass
module = Quiet(runs.DIFFERING)
before = runs.flat(module)
run = runs.trainer(runs.HDETCallback(), strategy="ddp_notebook", max_epochs=1)
run.fit(module, runs.DataLoader(runs.data(20), batch_size=8))
print("explorer" in vars(module), runs.flat(module) != before)
print("found", float(run.callback_metrics["hdet/found/0"]))
"""


@pytest.mark.slow
def test_a_notebooks_process_gets_the_rate_that_its_ranks_have_found():
    command = [sys.executable, "-c", _NOTEBOOK]
    root = Path(__file__).parents[2]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=100, check=False, cwd=root
    )
    # The weights come home, and no scheduler does.
    assert "False True" in done.stdout, done.stderr
    rate = float(done.stdout.split("found ")[1])
    assert rate > 0
    assert rate != LR


def test_a_learning_rate_monitor_logs_the_base_rate(of):
    for run in of("monitored"):
        assert run["logged"] == run["bases"]
        assert run["rates"][0] != run["bases"][0]
        assert len(run["logged"]) == 2 * EPOCH


def test_the_trainers_loggers_get_every_syncs_numbers(of):
    first, _ = of("monitored")
    rows = {int(r["step"]): r for r in first["rows"] if r.get("hdet/lr/replica/1")}
    assert sorted(rows) == [*range(SYNC, 2 * EPOCH + 1, SYNC)]
    for step, row in rows.items():
        assert float(row["hdet/lr/base"]) == pytest.approx(first["bases"][step])


# --- checkpoints


def test_every_checkpoint_is_the_same_on_all_ranks(of):
    both = of("checkpoints")
    # Eight by steps; two best and two last; two of the weights; one after `fit`.
    assert len(both[0]["saved"]) >= 8 + 2 + 2 + 1
    assert same(both, "saved")


def weights_of(file: Path) -> list[float]:
    state = torch.load(file, weights_only=False)["state_dict"]
    return torch.cat([value.flatten() for value in state.values()]).tolist()


def test_the_best_checkpoint_has_the_weights_that_were_validated(of):
    run = of("checkpoints")[0]
    best = Path(run["best"])
    epoch = int(best.stem.split("=")[1].split("-")[0])
    assert weights_of(best) == run["evaluated"][2 * epoch][0]


def test_weights_alone_are_the_mean_too(of, folder):
    run = of("checkpoints")[0]
    (file,) = (folder / "checkpoints" / "weights").glob("*.ckpt")
    assert "lr_schedulers" not in torch.load(file, weights_only=False)
    assert weights_of(file) == run["weights"]
    assert weights_of(folder / "checkpoints" / "after.ckpt") == run["weights"]


@pytest.mark.parametrize(
    ("name", "at", "phase"),
    [("resume", 20, "track"), ("resume_climb", 20, "climb"), ("resume_trial", 54, "trial")],
)
def test_a_resumed_run_is_the_same_to_the_last_bit(of, name, at, phase):
    both = of(name)
    ignored = ("sync_ms", "probe_ms", "masked_total")
    for run in both:
        whole = run["whole"]
        assert whole["phases"][at - 1] == phase
        assert run["losses"] == whole["losses"][at:]
        assert run["weights"] == whole["weights"]
        assert run["own"] == whole["own"][at:]
        pairs = [(value, whole["metrics"][k]) for k, value in run["metrics"].items()]
        kept = [pair for pair, k in zip(pairs, run["metrics"], strict=True) if k not in ignored]
        assert repr([a for a, _ in kept]) == repr([b for _, b in kept])


def test_after_an_exception_nothing_is_collective_and_what_is_saved_is_warned_of(of, folder):
    both = of("failing")
    for run in both:
        assert run["raised"] == "lost"
        assert run["weights"] == run["then"]
        assert ["signal handler" in line for line in run["said"]] == [True, False]
        assert "failed.ckpt was saved after an exception" in run["said"][1]
    assert both[0]["then"] != both[1]["then"]
    for name in ("failed", "hpc_ckpt_1"):
        assert weights_of(folder / "failing" / f"{name}.ckpt") == both[0]["then"]


# --- set-ups


def test_set_ups_that_cannot_be_right_are_refused_with_the_remedy(of):
    for run in of("refused"):
        assert "finds no hdet scheduler in this run: return {" in run["no scheduler"]
        assert "its entry has {'interval': 'epoch'}: return {" in run["epochs"]
        assert "its entry has {'frequency': 3}: return {" in run["seldom"]
        assert "does not work under manual optimization" in run["manual"]
        assert "give `model=self`" in run["manual"]
        assert "does not work with Unwrapped" in run["strategy"]
        assert "a value per rank would be a value per shard" in run["sharded"]
        assert "`HDETCallback` does not work with ModelParallelStrategy" in run["split"]


def test_a_run_without_the_callback_is_told_so_once_at_its_first_step(of):
    for run in of("refused"):
        (line,) = run["no callback"]
        assert re.search(r"is stepped by lightning\.pytorch\.\S+ without hdet's callback", line)
        assert "add `Trainer(callbacks=[hdet.integrations.lightning.HDETCallback()])`" in line


def test_a_second_fit_begins_at_the_values_found(of):
    both = of("twice")
    assert same(both, "factors")
    assert both[0]["factors"][0] != 1.0
    assert same(both, "weights")
    assert same(both, "evaluated")


def test_pytorch_lightning_takes_the_same_callback(of):
    both = of("older_package")
    assert same(both, "evaluated")
    for run in both:
        assert run["weights"] == run["plain"]["weights"]


def test_one_cycle_auto_lr_can_stand_in_explorers_place(of):
    both = of("one_cycle")
    assert same(both, "evaluated")
    assert both[0]["metrics"]["step"] == 2 * EPOCH


@pytest.mark.slow
def test_the_example_finds_a_rate():
    example = Path(__file__).parents[2] / "examples" / "lightning_trainer.py"
    command = [sys.executable, str(example), "--steps", "120"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    # Not the exit code: gloo may abort a process that has done all, with or without us.
    found = [line for line in done.stdout.splitlines() if "rate found" in line]
    assert len(found) == 1, done.stderr
    (line,) = found
    assert "held-out loss" in line


def test_without_lightning_the_error_says_what_to_install(monkeypatch):
    module = importlib.import_module("hdet.integrations.lightning")
    for name in ("lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r'pip install "hdet\[lightning\]"'):
        importlib.reload(module)


@pytest.mark.slow
def test_the_notebook_runs_and_has_a_record_to_draw(tmp_path):
    notebook = Path(__file__).parents[2] / "examples" / "explorer.ipynb"
    cells = json.loads(notebook.read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    command = [sys.executable, "-c", "\n".join([*code, "print('drawn', len(figure.data))"])]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=100, check=False, cwd=tmp_path
    )
    assert "drawn 3" in done.stdout, done.stderr
    assert float(re.findall(r"rate found (\S+),", done.stdout)[0]) < 0.3
