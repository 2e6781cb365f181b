"""The GPTs' shapes and first weights, the n-gram's batches, and what fine-tuning trains."""

import pytest
import torch

from benchmarks.core.failures import MissingDataError
from benchmarks.tasks import finetune, get_task
from benchmarks.tasks.finetune import FineTuneTask, LastBlockTask, LoRATask
from benchmarks.tasks.gpt import GPT, initialise
from hdet.seeding import generator


@pytest.mark.parametrize(("name", "size"), [("gpt-0.1M", 136_960), ("gpt-1M", 1_073_536)])
def test_the_gpts_sizes_and_first_weights(name: str, size: int) -> None:
    task = get_task(name)
    model = task.model(generator(0))
    assert sum(p.numel() for p in model.parameters()) == size
    weights = {name: p.detach() for name, p in model.named_parameters()}
    layers = 2 if name == "gpt-0.1M" else 5
    assert weights["blocks.0.qkv.weight"].std() == pytest.approx(0.02, rel=0.02)
    small = 0.02 / (2 * layers) ** 0.5
    assert weights["blocks.1.shrink.weight"].std() == pytest.approx(small, rel=0.02)
    assert weights["head.weight"].data_ptr() != weights["token.weight"].data_ptr()
    for name, weight in weights.items():
        if weight.ndim == 1:
            assert (weight == float("norm" in name and name.endswith("weight"))).all()


def test_a_gpt_looks_back_only() -> None:
    model = GPT(16, 2, 8)
    initialise(model, generator(0))
    tokens = torch.randint(256, (2, 8), generator=generator(1))
    changed = tokens.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 256
    one, other = model(tokens), model(changed)
    torch.testing.assert_close(one[:, :5], other[:, :5])
    assert not torch.allclose(one[:, 5:], other[:, 5:])


def test_the_ngram_s_target_is_the_byte_after_its_inputs() -> None:
    task = get_task("ngram")
    inputs, targets = task.batch(0, 3, 1, 4)
    assert (inputs.shape, targets.shape) == ((32, 12), (32,))
    assert inputs.max() < 256


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Let the pretraining take two steps, and be kept in a folder of the test's."""
    monkeypatch.setattr(finetune.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(FineTuneTask, "steps", 2)
    return tmp_path


def built(kind: type[FineTuneTask]) -> FineTuneTask:
    try:
        return kind()
    except MissingDataError as error:
        pytest.skip(str(error))


def test_the_pretraining_is_done_once_and_read_then(tiny, monkeypatch) -> None:
    first = built(FineTuneTask).model(generator(0)).state_dict()
    (file,) = (tiny / "hdet-benchmarks").iterdir()
    assert file.suffix == ".pt"
    monkeypatch.setattr(finetune, "_pretrain", None)
    again = FineTuneTask().model(generator(1)).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_what_each_way_of_fine_tuning_trains(tiny) -> None:
    trained = {}
    start = built(FineTuneTask).model(generator(0))
    for kind in (FineTuneTask, LastBlockTask, LoRATask):
        task = built(kind)
        model = task.model(generator(0))
        trained[kind] = [name for name, p in model.named_parameters() if p.requires_grad]
        batch = task.batch(0, 0, 0, 4)
        # All begin as the pretrained model: the second factor of an adapter is zero.
        torch.testing.assert_close(model(batch[0]), start(batch[0]))
        task.loss(model, batch).backward()
        grads = [name for name, p in model.named_parameters() if p.grad is not None]
        assert grads == trained[kind]
    assert len(trained[FineTuneTask]) == len(list(start.parameters()))
    parts = {name.rpartition(".")[0].removesuffix(".weight") for name in trained[LastBlockTask]}
    assert all(part.startswith(("blocks.3", "norm", "head")) for part in parts)
    # Two factors for each of four matrices in four blocks.
    assert len(trained[LoRATask]) == 2 * 4 * 4
    assert {name.rpartition(".")[2] for name in trained[LoRATask]} == {"down", "up"}


def test_a_path_is_refused_by_fine_tuning(tmp_path) -> None:
    with pytest.raises(ValueError, match="`finetune-lora` takes no data"):
        LoRATask(tmp_path)
