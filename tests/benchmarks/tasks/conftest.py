"""Small stand-ins for each task's data, so that no test depends on a download."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 60 files whose every line, and so every window, is unique."""
    root = tmp_path_factory.mktemp("text")
    for number in range(60):
        lines = (f"file{number:02d} line {i:06d}\n" for i in range(1000))
        path = root / f"part{number % 3}" / f"{number}{('.py', '.txt', '.md')[number % 3]}"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(lines))
    (root / "part0" / "ignored.bin").write_bytes(b"binary" * 100)
    return root


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write unsigned bytes as a gzipped idx file."""
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes(), 1))


def write_images(folder: Path, part: str, count: int, mark: int) -> None:
    """Write images whose class shows in bright rows, numbered in two corner pixels."""
    rng = np.random.default_rng(mark)
    labels = rng.integers(10, size=count).astype(np.uint8)
    images = rng.integers(60, size=(count, 28, 28)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[2 * label + 4 : 2 * label + 6] = 250
    numbers = np.arange(count)
    images[:, 0, :3] = np.stack([numbers // 256, numbers % 256, 0 * numbers + mark], 1)
    write_idx(folder / f"{part}-images-idx3-ubyte.gz", images)
    write_idx(folder / f"{part}-labels-idx1-ubyte.gz", labels)


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Return 600 training images (mark 7) and 500 test images (mark 9)."""
    write_images(tmp_path, "train", 600, mark=7)
    write_images(tmp_path, "t10k", 500, mark=9)
    return tmp_path


def rating_lines(count: int = 3000) -> list[str]:
    """Return lines in a mixed order of time, in which the item decides the rating."""
    rng = np.random.default_rng(0)
    items = rng.integers(1, 40, size=count)
    users = rng.integers(100, 130, size=count)
    times = rng.permutation(count) // 2  # each time stands twice
    rows = zip(users, items, 1 + items % 5, times, strict=True)
    return ["\t".join(map(str, row)) for row in rows]


@pytest.fixture
def u_data(tmp_path: Path) -> Path:
    """Return ratings in GroupLens's format."""
    path = tmp_path / "u.data"
    path.write_text("\n".join(rating_lines()) + "\n")
    return path


@pytest.fixture
def inter(tmp_path: Path) -> Path:
    """Return the same ratings in RecBole's format."""
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    folder = tmp_path / "recbole" / "dataset_example" / "ml-100k"
    folder.mkdir(parents=True)
    path = folder / "ml-100k.inter"
    path.write_text("\n".join([header, *rating_lines()]) + "\n")
    return path
