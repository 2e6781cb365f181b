"""GPTs over bytes, written for many models at once: weights are one matrix [models, weights].

A forward pass of all models is a chain of batched matrix products, so that on one GPU a
hundred runs of the smallest model take little more time than one. A *standard* model is as
people build them: affine norms, biases, weights drawn with a standard deviation of 0.02, what
writes to the residual stream scaled by 1 / sqrt(2 * layers); it computes in bfloat16 on CUDA.
The others have no affine norms and no biases of their attention.

Everything is drawn on the device that computes, so a record is of one kind of device.
"""

import math
import os
import zlib
from pathlib import Path

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Batch = tuple[Tensor, Tensor]
BYTES = 128  # what is no ASCII is one symbol
STD = 0.02


def drawn(*key: object) -> Generator:
    """Return the random numbers of a key, on the device."""
    return torch.Generator(DEVICE).manual_seed(zlib.crc32(repr(key).encode()) + 7)


def repeated(batch: Batch, models: int) -> Batch:
    """Return one batch for each of many models."""
    inputs, targets = batch
    return inputs.expand(models, *inputs.shape), targets.expand(models, *targets.shape)


class GPT:
    """Many causal transformers of one shape, and Python's standard library to learn.

    Attributes:
        name: of the random streams.
        count: weights of one model.
        held_windows: windows of the held-out loss.
    """

    def __init__(self, width: int, layers: int, context: int, standard: bool) -> None:
        """Read the text."""
        self.width, self.layers, self.context, self.standard = width, layers, context, standard
        self.name, self.heads = ("biggpt", max(1, width // 64)) if standard else ("gpt", 4)
        self.held_windows = max(16, 65536 // context) if standard else 32
        self.shapes = self._shapes()
        self.sizes = [math.prod(shape) for shape in self.shapes.values()]
        self.count = sum(self.sizes)
        library, pattern = Path(os.__file__).parent, "**/*.py" if standard else "*.py"
        files = sorted(str(file) for file in library.glob(pattern))
        raw = b"".join(Path(f).read_bytes() for f in files if "site-packages" not in f)
        raw = bytearray(raw[: 16_000_000 if standard else 8_000_000])
        text, held = torch.frombuffer(raw, dtype=torch.uint8), 500_000 if standard else 300_000
        text = text.where(text < BYTES, BYTES - 1 if standard else 0).to(DEVICE)
        self._text, self._held = text[:-held], text[-held:]

    def initial(self, seed: int) -> Tensor:
        """Return the weights of one model, flat."""
        draw = drawn("biginit", seed, self.width) if self.standard else drawn("ginit", seed)
        parts = []
        for name, shape in self.shapes.items():
            if len(shape) == 1:
                value = float("norm" in name and not name.endswith("bias"))
                parts.append(torch.full(shape, value, device=DEVICE))
                continue
            std = STD if self.standard or "." not in name else shape[0] ** -0.5
            if name.endswith(("mix", "shrink")):
                std /= math.sqrt(2 * self.layers)
            parts.append(torch.randn(shape, generator=draw, device=DEVICE).flatten() * std)
        return torch.cat(parts)

    def batch(self, draw: Generator, windows: int) -> Batch:
        """Return inputs and targets, each (windows, context)."""
        return self._windows(self._text, draw, windows)

    def loss(self, weights: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy of each model on windows of its own, in nats.

        Args:
            weights: (models, count).
            inputs: (models, windows, context).
            targets: the same shape.
        """
        fast = self.standard and DEVICE == "cuda"
        with torch.autocast(DEVICE, torch.bfloat16, enabled=fast):
            logits = self._logits(weights, inputs)
        losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        return losses.view(len(weights), -1).mean(1)

    @torch.no_grad()
    def held_out(self, weights: Tensor) -> Tensor:
        """Return each model's loss on windows that are not trained on."""
        draw = drawn("big held" if self.standard else "gpt held")
        batch = self._windows(self._held, draw, self.held_windows)
        parts = weights.split(8 if self.standard else 64)
        return torch.cat([self.loss(part, *repeated(batch, len(part))) for part in parts])

    def _logits(self, weights: Tensor, inputs: Tensor) -> Tensor:
        models, windows, context = inputs.shape
        parts = zip(self.shapes.items(), weights.split(self.sizes, 1), strict=True)
        p = {name: part.view(models, *shape) for (name, shape), part in parts}

        def normed(x: Tensor, name: str) -> Tensor:
            x = F.layer_norm(x, (self.width,))
            return x * p[name][:, None] + p[f"{name}.bias"][:, None] if self.standard else x

        def linear(x: Tensor, name: str) -> Tensor:
            if (bias := p.get(f"{name}.bias")) is None:
                return torch.bmm(x, p[name])
            return torch.baddbmm(bias[:, None], x, p[name])

        places = inputs.reshape(models, -1, 1).expand(-1, -1, self.width)
        h = torch.gather(p["token"], 1, places) + p["position"].repeat(1, windows, 1)
        per_head = (models * windows, context, 3, self.heads, self.width // self.heads)
        for i in range(self.layers):
            x = linear(normed(h, f"{i}.norm_1"), f"{i}.qkv")
            q, k, v = x.view(per_head).permute(2, 0, 3, 1, 4)
            a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            h = h + linear(a.transpose(1, 2).reshape(h.shape), f"{i}.mix")
            x = F.gelu(linear(normed(h, f"{i}.norm_2"), f"{i}.expand"))
            h = h + linear(x, f"{i}.shrink")
        return torch.bmm(normed(h, "norm"), p["head"]).float()

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        w = self.width
        matrices = [
            ("qkv", w, 3 * w),
            ("mix", w, w),
            ("expand", w, 4 * w),
            ("shrink", 4 * w, w),
        ]
        shapes: dict[str, tuple[int, ...]] = {
            "token": (BYTES, w),
            "position": (self.context, w),
            "head": (w, BYTES),
        }
        norms = ["norm"]
        for i in range(self.layers):
            norms += [f"{i}.norm_1", f"{i}.norm_2"]
            for norm in norms if self.standard else []:
                shapes |= {norm: (w,), f"{norm}.bias": (w,)}
            for name, fan, out in matrices:
                shapes[f"{i}.{name}"] = (fan, out)
                if self.standard or name in ("expand", "shrink"):
                    shapes[f"{i}.{name}.bias"] = (out,)
            norms = []
        return shapes

    def _windows(self, text: Tensor, draw: Generator, windows: int) -> Batch:
        last = len(text) - self.context - 1
        starts = torch.randint(last, (windows,), generator=draw, device=DEVICE)
        found = text[starts[:, None] + torch.arange(self.context + 1, device=DEVICE)].long()
        return found[:, :-1], found[:, 1:]
