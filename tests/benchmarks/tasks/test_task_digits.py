"""The digits task: fresh draws of few images."""

import sys

import pytest
import torch

from benchmarks.core.failures import MissingDataError
from benchmarks.tasks import get_task
from benchmarks.tasks.digits import DigitsTask


def test_every_visit_draws_its_images_anew():
    task = DigitsTask()
    seen = torch.cat([task.batch(0, step, rank, 2)[0] for step in range(50) for rank in (0, 1)])
    assert len(seen) > 1497
    assert len(seen.unique(dim=0)) == len(seen)


def test_images_are_shifted_by_one_pixel_each_way_at_most(monkeypatch):
    monkeypatch.setattr("benchmarks.tasks.digits.NOISE", 0.0)
    task = DigitsTask()
    for step in range(2):
        images, labels = task.batch(0, step, 0, 2)
        for image, label in zip(images.view(-1, 8, 8), labels, strict=True):
            frames = task._padded[task._labels == label]
            views = frames.unfold(1, 8, 1).unfold(2, 8, 1).flatten(0, 2)
            assert (views == image).all(dim=(1, 2)).any()


def test_held_out_images_are_not_in_the_stream():
    task = DigitsTask()
    held = torch.cat([images for images, _ in task.held_out()])
    assert len(held) == 300
    stream = task._padded[:, 1:9, 1:9].flatten(1)
    assert len(stream) == 1497
    assert torch.cdist(held, stream).min() > 0


def test_a_missing_scikit_learn_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingDataError, match="pip install --editable benchmarks"):
        get_task("digits")
