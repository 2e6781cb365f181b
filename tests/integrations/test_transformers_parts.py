"""What `HDETCallback` sees, says and refuses, on two processes and on one."""

import importlib
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback

import hdet
from hdet.integrations import transformers
from hdet.integrations.transformers import HDETCallback
from hdet.integrations.transformers.losses import StepLoss
from tests.rank_runner import run_ranks

from .trainers import (
    Plain,
    Texts,
    as_torchrun_does,
    gpt2,
    make_trainer,
    raising,
    saved,
    spread,
    tuned,
    weights,
)

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(300)]


# --- the loss that Explorer sees


def true_loss(trainer: Trainer, batches: list[dict[str, Tensor]]) -> float:
    """Return the mean loss of a rank's batches: of all its tokens, or of the batches' means."""
    model: Any = trainer.model
    if isinstance(model, Plain):
        return sum(float(model(**batch)["loss"]) for batch in batches) / len(batches)
    total = tokens = 0.0
    for batch in batches:
        scores = model(batch["input_ids"]).logits[:, :-1].flatten(0, 1)
        labels = batch["labels"][:, 1:].flatten()
        total += float(nn.functional.cross_entropy(scores, labels, reduction="sum"))
        # The Trainer counts all labels of a model that does not say that it shifts them.
        tokens += int((batch["labels"] != -100).sum())
    return total / tokens


def losses_of(folder: str, model: nn.Module, **settings: Any) -> list[tuple[float, float]]:
    """Return what Explorer was told at each step, and what it should be told."""
    trainer: Any = make_trainer(folder, model, ragged=True, max_steps=4, **settings)
    callback = tuned(trainer, explore=[])
    batches: list[dict[str, Tensor]] = []
    pairs: list[tuple[float, float]] = []

    class Listen(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            explorer: Any = callback.explorer
            observe = explorer.observe

            def told(loss: Tensor) -> None:
                with torch.no_grad():
                    pairs.append((float(loss), true_loss(trainer, batches)))
                batches.clear()
                observe(loss)

            explorer.observe = told

    def keep(model: Any, inputs: Any, *args: Any) -> Tensor:
        batches.append(dict(inputs))
        return step(model, inputs, *args)

    step, trainer.training_step = trainer.training_step, keep
    trainer.add_callback(Listen())
    trainer.train()
    return pairs


def all_losses(folder: str) -> dict[str, list[tuple[float, float]]]:
    accumulated = {"gradient_accumulation_steps": 3}
    apart = {"average_tokens_across_devices": False}
    return {
        "tokens of all ranks": losses_of(folder, gpt2(), **accumulated),
        "own tokens": losses_of(folder, gpt2(), **accumulated, **apart),
        "one batch": losses_of(folder, gpt2()),
        "no count": losses_of(folder, Plain(), **accumulated),
    }


def test_a_step_without_a_labelled_token_has_a_loss_of_zero():
    settings = SimpleNamespace(average_tokens_across_devices=True, world_size=2)
    trainer: Any = SimpleNamespace(args=settings)
    step_loss = StepLoss(trainer)
    for label, loss in ((-100, 0.0), (3, 1.5)):
        labels = torch.full((2, 4), label)
        step_loss.add(torch.tensor(loss), {"labels": labels}, torch.tensor(12))
        # 8 of the 12 tokens are this rank's, or none are.
        assert float(step_loss.take()) == pytest.approx(loss * 12 / (2 * 8))


# --- other ways through the Trainer


class Meddle(TrainerCallback):
    """Added last; asks for an evaluation and a checkpoint that no one announced."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.spreads: list[float] = []

    def on_step_end(self, args, state, control, model=None, **_):
        if state.global_step == 7:
            self.spreads.append(spread(model))
            self.trainer.save_model(f"{args.output_dir}/unannounced")
            self.spreads.append(spread(model))
        if state.global_step == 14:
            self.trainer.evaluate()
            self.spreads.append(spread(model))


def meddled(folder: str) -> dict[str, Any]:
    """Train with epochs, evaluations at the start, the best model at the end; twice."""
    trainer = make_trainer(
        folder,
        max_steps=-1,
        num_train_epochs=0.5,
        learning_rate=0.05,
        eval_on_start=True,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        logging_strategy="steps",
        logging_steps=1,
    )
    callback, meddle = tuned(trainer, search=False, sync_every=5), Meddle(trainer)
    trainer.add_callback(meddle)
    trainer.train()
    best: Any = trainer.state.best_model_checkpoint
    dist.barrier()
    first: Any = callback.explorer
    rates = [row["learning_rate"] for row in trainer.state.log_history if "loss" in row]
    result = {
        "spreads": list(meddle.spreads),
        "end": spread(trainer.model),
        "best": torch.equal(saved(best, trainer.model), weights(trainer.model)),
        "rates": rates,
    }
    # A script may save on one rank only once training is over.
    if dist.get_rank() == 0:
        trainer.save_model(f"{folder}/final")
    trainer.train()
    assert callback.explorer is not first
    return {**result, "again": spread(trainer.model)}


def refused(folder: str) -> dict[str, list[str]]:
    """Return what is said of set-ups that cannot work, at `train()`."""
    said: dict[str, list[str]] = {}

    def attempt(name: str, add: bool = True, **changed: Any) -> None:
        trainer: Any = make_trainer(folder, max_steps=2, **changed.pop("args", {}))
        for key, value in changed.items():
            setattr(trainer, key, value(trainer))
        with raising() as said[name]:
            callback = HDETCallback(trainer, Texts(8, 3))
            if add:
                trainer.add_callback(callback)
            trainer.train()

    def own(trainer: Any) -> hdet.Explorer:
        trainer.create_optimizer()
        return hdet.Explorer(trainer.optimizer)

    trainer: Any = make_trainer(folder, max_steps=2)
    trainer.lr_scheduler = own(trainer)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        trainer.train()
    said["no callback"] = [str(w.message) for w in told if "hdet" in str(w.message)]
    attempt("not added", add=False)
    attempt("own explorer", lr_scheduler=own)
    attempt("evaluated before", state=lambda trainer: (trainer.evaluate(), trainer.state)[1])
    attempt("plateau", args={"lr_scheduler_type": "reduce_lr_on_plateau", "eval_steps": 1,
                             "eval_strategy": "steps"})  # fmt: skip
    attempt("jit", args={"enable_jit_checkpoint": True})
    return said


def skipped(folder: str) -> tuple[int, int]:
    """Return the Trainer's and Explorer's count of steps, two of which a scaler skipped."""
    trainer: Any = make_trainer(folder, max_steps=6)
    callback = tuned(trainer, search=False)
    told: list[Any] = []

    class Overflow(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, optimizer=None, **_):
            skip = state.global_step in (1, 2)
            inner: Any = optimizer
            inner._is_overflow = skip
            inner.optimizer.step = (lambda *_: None) if skip else real[0]

        def on_train_begin(self, *_: Any, **objects: Any):
            real.append(objects["optimizer"].optimizer.step)

        def on_step_end(self, args, state, control, **_):
            told.append(callback.explorer._skipped)  # pyright: ignore

    real: list[Any] = []
    kind = type(trainer.accelerator)
    before = kind.optimizer_step_was_skipped
    kind.optimizer_step_was_skipped = property(lambda self: self._optimizers[-1]._is_overflow)
    try:
        trainer.add_callback(Overflow())
        trainer.train()
    finally:
        kind.optimizer_step_was_skipped = before
    assert told == [False, True, True, True, True, True]
    return trainer.state.global_step, callback.explorer.metrics()["step"]  # pyright: ignore


def evaluated(folder: str) -> list[Tensor]:
    """Return the weights at the end with evaluations, in a trial too, and without."""
    found = []
    for every in (3, None):
        several = {"eval_strategy": "steps", "eval_steps": every} if every else {}
        trainer = make_trainer(folder, max_steps=150, **several)
        callback = tuned(trainer, sync_every=5)
        trainer.train()
        assert callback.explorer is not None
        assert callback.explorer.metrics()["phase"] == "track"
        found.append(weights(trainer.model))
    return found


def adapted(folder: str) -> dict[str, Any]:
    """Train LoRA adapters, and save them amid an interval."""
    import peft

    shape = peft.LoraConfig(target_modules=["c_attn"], r=2, fan_in_fan_out=True)
    model = peft.get_peft_model(gpt2(), shape)
    base = [p.detach().clone() for p in model.parameters() if not p.requires_grad]
    trainer = make_trainer(folder, model, max_steps=14, save_strategy="steps", save_steps=7)
    callback = tuned(trainer, search=False, sync_every=5)
    trainer.train()
    dist.barrier()
    frozen = [p for p in model.parameters() if not p.requires_grad]
    file = Path(folder) / "checkpoint-14" / "adapter_model.safetensors"
    mine = {name.replace(".default", ""): p for name, p in model.named_parameters()}
    assert callback.explorer is not None
    return {
        "spread": spread(model),
        "frozen": all(map(torch.equal, base, frozen)),
        "saved": all(torch.equal(mine[name], t) for name, t in load_file(file).items()),
        "replicas": callback.explorer.metrics()["replica_values"],
    }


def on_two(folder: str) -> dict[str, Any]:
    as_torchrun_does()
    return {
        "losses": all_losses(folder),
        "meddled": meddled(f"{folder}/meddled"),
        "refused": refused(folder),
        "skipped": skipped(folder),
        "evaluated": evaluated(folder),
        "adapted": adapted(f"{folder}/adapted"),
    }


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> list[dict[str, Any]]:
    return run_ranks(on_two, 2, str(tmp_path_factory.mktemp("two")))


@pytest.mark.parametrize("kind", ["tokens of all ranks", "own tokens", "one batch", "no count"])
def test_explorer_sees_this_ranks_own_loss_at_its_true_scale(two, kind):
    first, second = (rank["losses"][kind] for rank in two)
    for seen, true in first + second:
        assert seen == pytest.approx(true, rel=1e-5)
    assert [seen for seen, _ in first] != [seen for seen, _ in second]


def test_whoever_asks_gets_the_weights_of_all_replicas(two):
    for rank in two:
        apart, *as_one = rank["meddled"]["spreads"]
        assert apart > 0
        assert as_one == [0.0, 0.0]


def test_the_best_model_is_loaded_as_it_was_saved(two):
    for rank in two:
        assert rank["meddled"]["best"]
        assert rank["meddled"]["end"] == 0
        assert rank["meddled"]["again"] == 0


def test_logs_have_the_schedules_rate_and_not_a_replicas(two):
    first, second = (rank["meddled"] for rank in two)
    assert first["rates"] == second["rates"]
    # Before the first sync the base rate is the linear schedule's.
    assert first["rates"][:5] == pytest.approx([0.05 * (1 - step / 20) for step in range(5)])


@pytest.mark.parametrize(
    ("setup", "remedy"),
    [
        ("not added", "trainer.add_callback(HDETCallback"),
        ("own explorer", "the callback makes the Explorer"),
        ("evaluated before", "`eval_on_start=True`"),
        ("plateau", 'lr_scheduler_type="cosine"'),
        ("jit", "save more often"),
    ],
)
def test_what_cannot_work_is_refused_on_every_rank(two, setup, remedy):
    for number, rank in enumerate(two):
        [message] = rank["refused"][setup]
        assert f"[rank {number} of 2]" in message
        assert remedy in message


def test_a_run_without_the_callback_is_told_so_once(two):
    for rank in two:
        [message] = rank["refused"]["no callback"]
        assert "is stepped by transformers.trainer without hdet's callback" in message
        assert "trainer.add_callback(" in message


def test_a_step_that_a_scaler_skips_is_counted_by_none(two):
    assert [rank["skipped"] for rank in two] == [(6, 4), (6, 4)]


def test_training_does_not_notice_an_evaluation(two):
    for rank in two:
        with_evaluations, without = rank["evaluated"]
        assert torch.equal(with_evaluations, without)


def test_adapters_are_explored_and_saved_and_the_frozen_model_stays(two):
    for rank in two:
        found = rank["adapted"]
        assert found["spread"] == 0
        assert found["frozen"]
        assert found["saved"]
        assert all(len({*factors}) == 2 for factors in found["replicas"].values())


# --- one process


def on_one(folder: str) -> dict[str, Any]:
    as_torchrun_does()
    found = {}
    for kind in ("plain", "tuned"):
        trainer = make_trainer(
            f"{folder}/{kind}", gpt2(dropout=0.1), logging_strategy="steps", logging_steps=1
        )
        if kind == "tuned":
            tuned(trainer)
        trainer.train()
        steps = [row for row in trainer.state.log_history if "loss" in row]
        found[kind] = weights(trainer.model), steps
    trainer = make_trainer(folder)
    data, said = Texts(8, 3), []
    for wrong in (
        lambda: HDETCallback("trainer", data),  # pyright: ignore[reportArgumentType]
        lambda: HDETCallback(trainer, data, optimizer=None),
        lambda: HDETCallback(trainer, data, sync_evry=3),
        lambda: HDETCallback(trainer, []),
        lambda: HDETCallback(trainer, iter(())),
    ):
        with raising() as messages:
            wrong()
        said.append(messages)
    return {**found, "said": said}


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> dict[str, Any]:
    [found] = run_ranks(on_one, 1, str(tmp_path_factory.mktemp("one")))
    return found


def test_one_process_trains_as_without_the_callback(one):
    plain, tuned_ = one["plain"], one["tuned"]
    assert torch.equal(plain[0], tuned_[0])
    assert plain[1] == tuned_[1]


def test_wrong_arguments_are_named(one):
    trainer, given, misspelt, empty, stream = (messages[0] for messages in one["said"])
    assert "must be a transformers Trainer" in trainer
    assert "no setting optimizer" in given
    assert "no setting sync_evry" in misspelt
    assert "sync_every" in misspelt
    for message in (empty, stream):
        assert "must be a dataset with a length" in message


def test_without_transformers_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r'pip install "hdet\[transformers\]"'):
        importlib.reload(transformers)
