"""Train a tiny GPT-2 with the Hugging Face Trainer, from a rate that is 30 times too low.

    pip install "hdet[transformers]"
    OMP_NUM_THREADS=1 torchrun --standalone --nproc-per-node 4 examples/huggingface.py

Nothing is downloaded. The last lines tell the rate that was found, and the held-out loss.
"""

import argparse
import tempfile

import torch
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from hdet.integrations.transformers import HDETCallback

WORDS, LENGTH = 64, 16


class Sequences(Dataset):
    """Arithmetic sequences modulo the number of words; the model learns to go on."""

    def __init__(self, count: int, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        start = torch.randint(0, WORDS, (count, 1), generator=draw)
        step = torch.randint(1, 9, (count, 1), generator=draw)
        self.rows = (start + step * torch.arange(LENGTH)) % WORDS

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.rows[index], "labels": self.rows[index]}


def main(steps: int, folder: str) -> None:
    """Train, and print what was found."""
    torch.manual_seed(0)
    shape = GPT2Config(vocab_size=WORDS, n_positions=LENGTH, n_embd=32, n_layer=2, n_head=2)
    shape.bos_token_id = shape.eos_token_id = None
    trainer = Trainer(
        model=GPT2LMHeadModel(shape),
        args=TrainingArguments(
            folder,
            max_steps=steps,
            learning_rate=1e-4,
            lr_scheduler_type="cosine",
            per_device_train_batch_size=16,
            per_device_eval_batch_size=128,
            logging_steps=max(1, steps // 6),
            use_cpu=True,
            ddp_backend="gloo",
            ddp_find_unused_parameters=False,
            report_to=[],
            disable_tqdm=True,
        ),
        train_dataset=Sequences(20_000, seed=1),
        eval_dataset=Sequences(1_000, seed=2),
    )
    callback = HDETCallback(trainer, Sequences(4_000, seed=3))
    trainer.add_callback(callback)
    trainer.train()
    loss = trainer.evaluate()["eval_loss"]
    if trainer.is_world_process_zero() and callback.explorer is not None:
        print(f"rate {callback.explorer.found()[0]:.2e}, held-out loss {loss:.4f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=600)
    with tempfile.TemporaryDirectory() as folder:
        main(parser.parse_args().steps, folder)
