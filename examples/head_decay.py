"""Learn a decay per class or per weight for the last layer of a trained network.

    python examples/head_decay.py

A small network learns digits in a usual loop with `hdet.Explorer`; in one process the rate is
that of the schedule. Then its features are frozen. The layer on top is a convex problem: `maid`
learns its decay on validation images, and the layer that it finds with the decay goes back into
the network. Prints loss and accuracy on further images; needs scikit-learn, which has the data.
About 15 seconds on one core. docs/results/penalties.md says how much of the gain comes from the
decay, and how much from having seen the validation images.
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR

import hdet
from hdet.bilevel import Problem, Result, maid

Part = tuple[Tensor, Tensor]
# What has a decay of its own, as the shape of theta against the layer's [10, 32] weights.
DECAYS = {"in all": (1, 1), "per class": (10, 1), "per weight": (10, 32)}


def parts(seed: int) -> list[Part]:
    """Return 600 images to train on, 600 to validate the decay, and 597 to test."""
    images, classes = load_digits(return_X_y=True)
    x, y = torch.tensor(images).float() / 16, torch.tensor(classes)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    return [(x[part], y[part]) for part in order.split([600, 600, 597])]


def train(x: Tensor, y: Tensor, steps: int, seed: int) -> nn.Sequential:
    """Return a network that was trained as usual."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU())
    model.append(nn.Linear(32, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = CosineAnnealingLR(optimizer, steps)
    explorer = hdet.Explorer(optimizer, schedule, model=model)
    for _ in range(steps):
        batch = torch.randint(len(x), (64,))
        loss = F.cross_entropy(model(x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        explorer.step(loss)
    explorer.converge()
    return model


@torch.no_grad()
def features(model: nn.Sequential, x: Tensor) -> Tensor:
    """Return what the last layer sees, in float64 for exact second derivatives."""
    return model[:-1](x).double()


def learn_decay(
    model: nn.Sequential, fit: Part, validation: Part, shape: tuple[int, int], steps: int
) -> Result:
    """Return the decay, and the layer with it, that does best on `validation`."""
    seen, y = features(model, fit[0]), fit[1]
    other, other_y = features(model, validation[0]), validation[1]
    problem = Problem(
        upper=lambda w: F.cross_entropy(other @ w["weight"].T + w["bias"], other_y),
        lower=lambda w, theta: (
            F.cross_entropy(seen @ w["weight"].T + w["bias"], y)
            + (theta.exp() * w["weight"].square()).sum() / 2
        ),
        ridge=1e-3,
        upper_convex=True,
    )
    start = torch.full(shape, -5.0, dtype=torch.float64)
    layer = {name: p.detach().double() for name, p in model[-1].named_parameters()}
    # Few steps: with a decay per weight, more of them overfit the validation images.
    return maid(
        problem,
        start,
        layer,
        accuracy=0.01,
        step=100.0,
        max_steps=steps,
        tolerance=1e-4,
    )


@torch.no_grad()
def report(name: str, model: nn.Sequential, x: Tensor, y: Tensor) -> None:
    """Print the loss and accuracy of a network on images that it has not seen."""
    scores = model(x)
    right = (scores.argmax(1) == y).double().mean()
    print(f"{name}: test loss {F.cross_entropy(scores, y):.4f}, accuracy {right:.1%}")


def main(train_steps: int, decay_steps: int, seed: int) -> None:
    """Train, then learn decays of the last layer, each from the layer as trained."""
    fit, validation, test = parts(seed)
    model = train(*fit, train_steps, seed)
    report("as trained", model, *test)
    trained = {name: p.clone() for name, p in model[-1].state_dict().items()}
    for name, shape in DECAYS.items():
        model[-1].load_state_dict(trained)
        result = learn_decay(model, fit, validation, shape, decay_steps)
        model[-1].load_state_dict(result.x)
        report(f"decay {name}", model, *test)
        low, high = result.theta.exp().min(), result.theta.exp().max()
        print(f"  decay {low:.1e} to {high:.1e} for {result.counts.cost} products")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--train-steps", type=int, default=300)
    parser.add_argument("--decay-steps", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    main(given.train_steps, given.decay_steps, given.seed)
