"""Initial weights from one generator, and parameter groups by name.

torch's modules draw their first weights from the global generator, and advance it by
the way. Here the global generator is put back once a model is built, and each parameter
is filled again from the generator that the caller gave. (Building on the meta device
draws nothing either, but its first use imports sympy and more, a second or two in each
process.)
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Generator, nn

Model = TypeVar("Model", bound=nn.Module)
# The matrices of `mlp` in two groups, for `grouped`.
MLP_GROUPS = {"hidden": ["0.", "2."], "head": ["4."]}


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Return a network with two hidden layers."""
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, outputs),
    )


def initialised(
    build: Callable[[], Model], generator: Generator, embedding_std: float = 0.02
) -> Model:
    """Return `build()` with every weight drawn from `generator`, on the CPU.

    Matrices and kernels are normal with variance 1 / fan-in, embeddings normal with
    `embedding_std`, biases zero, and norms the identity.

    Args:
        build: makes the model, from linear, convolution, embedding and layer norm
            modules.
        generator: the only source of randomness; it is advanced.
        embedding_std: the standard deviation of embeddings.

    Raises:
        TypeError: if the model has a parameter whose module is of another kind, since
            it would depend on the global generator.
    """
    with torch.random.fork_rng(devices=[]):
        model = build()
    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=embedding_std, generator=generator)
        elif isinstance(module, nn.Linear | nn.Conv2d):
            std = module.weight[0].numel() ** -0.5
            nn.init.normal_(module.weight, std=std, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif next(module.parameters(recurse=False), None) is not None:
            kind = type(module).__name__
            raise TypeError(f"no initial weights are known for {name!r}, a {kind}.")
    return model


def grouped(model: nn.Module, prefixes: Mapping[str, Sequence[str]]) -> list[dict]:
    """Return optimizer groups: `no_decay`, then one for each name in `prefixes`.

    Vectors (biases and norms) go to `no_decay`, whose weight decay is 0, as in the
    paper. A matrix goes where its name's beginning says. A wrapper such as DDP may
    surround the model.

    Args:
        model: the model whose parameters are to be grouped.
        prefixes: for each group, how the names of its matrices begin.

    Raises:
        ValueError: if a matrix fits no group.
    """
    groups: dict[str, dict] = {
        "no_decay": {"params": [], "name": "no_decay", "weight_decay": 0.0}
    }
    groups |= {name: {"params": [], "name": name} for name in prefixes}
    for full_name, parameter in model.named_parameters():
        name = full_name.removeprefix("module.")
        fits = [g for g, starts in prefixes.items() if name.startswith(tuple(starts))]
        if parameter.ndim < 2:
            fits = ["no_decay"]
        if not fits:
            raise ValueError(f"parameter {name!r} fits none of the groups {prefixes}.")
        groups[fits[0]]["params"].append(parameter)
    return list(groups.values())
