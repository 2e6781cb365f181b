"""hdet in torchtitan: one call between the Trainer's construction and its training.

    trainer = config.build()
    explore(trainer, HuggingFaceTextDataLoader.Config(dataset="c4_validation"))
    trainer.train()

The replicas are `parallelism.data_parallel_replicate_degree`, of one shard or of several.
docs/guides/torchtitan.md says what it does, and what it does not.
"""

# pyright: reportMissingImports=false

try:
    import torchtitan.trainer  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"hdet.integrations.torchtitan needs torchtitan 0.3 and triton ({error}): "
        'pip install "hdet[torchtitan]"'
    ) from error

from .attach import explore as explore
from .schedulers import ExplorerSchedulers as ExplorerSchedulers
