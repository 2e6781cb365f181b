"""Fine-tune by LoRA with a learning rate that is 30 times too low.

    pip install "hdet[transformers]" peft
    OMP_NUM_THREADS=1 torchrun --standalone --nproc-per-node 4 examples/finetune_lora.py

A tiny GPT-2 is first trained here on one kind of sequence, so that nothing is downloaded. Its
adapters then learn another kind. The last line tells the rate that was found, and the held-out
loss after and before. What is hdet's are the lines marked so.
"""

import argparse
import tempfile

import torch
from peft import LoraConfig, get_peft_model
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from hdet.integrations.transformers import HDETCallback

WORDS, LENGTH = 64, 16


class Sequences(Dataset):
    """Arithmetic sequences modulo the number of words, with steps from a range."""

    def __init__(self, count: int, seed: int, steps: tuple[int, int]) -> None:
        draw = torch.Generator().manual_seed(seed)
        start = torch.randint(0, WORDS, (count, 1), generator=draw)
        step = torch.randint(*steps, (count, 1), generator=draw)
        self.rows = (start + step * torch.arange(LENGTH)) % WORDS

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.rows[index], "labels": self.rows[index]}


def pretrained(steps: int) -> GPT2LMHeadModel:
    """Return a model that knows sequences with small steps; the same on every process."""
    torch.manual_seed(0)
    shape = GPT2Config(vocab_size=WORDS, n_positions=LENGTH, n_embd=64, n_layer=2, n_head=2)
    shape.bos_token_id = shape.eos_token_id = None
    model = GPT2LMHeadModel(shape)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    rows = Sequences(32 * steps, seed=4, steps=(1, 5)).rows
    for batch in rows.split(32):
        optimizer.zero_grad()
        model(batch, labels=batch).loss.backward()
        optimizer.step()
    return model


def main(steps: int, folder: str) -> None:
    """Fine-tune, and print what was found."""
    base = pretrained(steps=300)
    adapters = LoraConfig(target_modules=["c_attn", "c_fc"], r=8, fan_in_fan_out=True)
    trainer = Trainer(
        model=get_peft_model(base, adapters),
        args=TrainingArguments(
            folder,
            max_steps=steps,
            learning_rate=1e-4,
            lr_scheduler_type="cosine",
            eval_on_start=True,
            per_device_train_batch_size=16,
            per_device_eval_batch_size=128,
            use_cpu=True,
            ddp_backend="gloo",
            ddp_find_unused_parameters=False,
            report_to=[],
            disable_tqdm=True,
        ),
        train_dataset=Sequences(20_000, seed=1, steps=(5, 9)),
        eval_dataset=Sequences(1_000, seed=2, steps=(5, 9)),
    )
    callback = HDETCallback(trainer, Sequences(4_000, seed=3, steps=(5, 9)))  # hdet
    trainer.add_callback(callback)  # hdet
    trainer.train()
    before, after = trainer.state.log_history[0]["eval_loss"], trainer.evaluate()["eval_loss"]
    if trainer.is_world_process_zero() and callback.explorer is not None:
        rate = callback.explorer.found()[0]
        print(f"rate {rate:.2e}, held-out loss {after:.4f}, {before:.4f} before")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=400)
    with tempfile.TemporaryDirectory() as folder:
        main(parser.parse_args().steps, folder)
