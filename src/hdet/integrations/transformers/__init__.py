"""hdet in the Hugging Face `Trainer`: one callback finds the learning rate while it trains.

    trainer = Trainer(model=model, args=args, train_dataset=train, eval_dataset=held_out)
    trainer.add_callback(HDETCallback(trainer, probe_dataset))
    trainer.train()

Started by torchrun on several processes, under `DistributedDataParallel`.
docs/guides/huggingface.md says what it does, and what it does not.
"""

try:
    from transformers import Trainer  # noqa: F401
except ImportError as error:
    raise ImportError(
        "hdet.integrations.transformers needs transformers 5 with accelerate: "
        'pip install "hdet[transformers]"'
    ) from error

from .callback import HDETCallback as HDETCallback
