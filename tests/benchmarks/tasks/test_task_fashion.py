"""The fashion task: the idx reader, the order of the images, and damaged files."""

import gzip

import numpy as np
import pytest
import torch

from benchmarks.core.failures import MissingDataError
from benchmarks.tasks import fashion, get_task

IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"


def corners(images: torch.Tensor) -> np.ndarray:
    """Return the three numbering pixels of each image, see conftest."""
    return (images[:, 0, 0, :3] * fashion.STD + fashion.MEAN).mul(255).round().numpy()


@pytest.mark.parametrize("seed", [0, 1])
def test_no_image_comes_twice_in_a_pass(image_folder, seed):
    task = get_task("fashion", image_folder)
    seen = [
        tuple(corner)
        for step in range(task.max_steps(2) or 0)
        for rank in range(2)
        for corner in corners(task.batch(seed, step, rank, 2)[0])
    ]
    assert len(seen) == 600 // 16 * 16
    assert len(set(seen)) == len(seen)
    assert {corner[2] for corner in seen} == {7}


def test_held_out_images_are_the_first_of_the_test_set(image_folder):
    held = get_task("fashion", image_folder).held_out()
    numbers = np.concatenate([corners(images) for images, _ in held])
    assert set(numbers[:, 2]) == {9}
    assert (numbers[:, 0] * 256 + numbers[:, 1] == np.arange(500)).all()


def test_labels_belong_to_their_images(image_folder):
    images, labels = get_task("fashion", image_folder).batch(0, 1, 1, 2)
    for image, label in zip(images[:, 0], labels, strict=True):
        rows = image.mean(dim=1).topk(2).indices.sort().values
        assert rows.tolist() == [2 * label + 4, 2 * label + 5]


def test_missing_files_are_named_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(fashion, "DEFAULT_FOLDER", tmp_path / "absent")
    words = r"/absent has no .*apt-get install dataset-fashion-mnist"
    with pytest.raises(MissingDataError, match=words):
        get_task("fashion")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"not gzip", "cannot be unpacked"),
        (gzip.compress(b"idx")[:-9], "cannot be unpacked"),
        (gzip.compress(b""), "begins with , not with the idx header 00000803"),
        (gzip.compress(b"\0\0\x08\x01" + bytes(12)), "begins with 00000801"),
        (gzip.compress(b"\0\0\x0d\x03" + bytes(12)), "begins with 00000d03"),
        (gzip.compress(b"\0\0\x08\x03" + bytes(12)), r"says \(0, 0, 0\), but 0 bytes"),
        (gzip.compress(b"\0\0\x08\x03" + b"\0\0\0\x02" * 3 + bytes(9)), "but 9 bytes"),
    ],
    # Packed bytes hold the time of packing, and names of tests must not.
    ids=["no gzip", "cut off", "empty", "labels", "doubles", "no size", "too few"],
)
def test_damaged_images_are_reported(image_folder, content, complaint):
    (image_folder / IMAGES).write_bytes(content)
    with pytest.raises(MissingDataError, match=f"{IMAGES} is damaged: .*{complaint}"):
        get_task("fashion", image_folder)


def test_labels_that_do_not_fit_the_images_are_reported(image_folder):
    (image_folder / LABELS.replace("train", "t10k")).replace(image_folder / LABELS)
    with pytest.raises(MissingDataError, match="there are 500 labels.*600, 28, 28"):
        get_task("fashion", image_folder)
