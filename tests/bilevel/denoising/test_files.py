"""A denoiser comes back from disk bit for bit, or not at all."""

import pytest
import torch

from hdet.bilevel import FieldsOfExperts, TVDenoiser
from tests.state_mutations import mutations

from .pictures import pictures


def fitted(kind):
    return kind(max_steps=1).fit(*pictures(2))


@pytest.mark.parametrize("kind", [TVDenoiser, FieldsOfExperts])
def test_it_comes_back_bit_for_bit(kind, tmp_path):
    found, noisy = fitted(kind), pictures(2, seed=1)[1]
    found.save(tmp_path / "denoiser.pt")
    back = kind.load(tmp_path / "denoiser.pt")
    assert back.theta.keys() == found.theta.keys()
    assert all(torch.equal(back.theta[key], value) for key, value in found.theta.items())
    assert torch.equal(back.denoise(noisy), found.denoise(noisy))
    assert back.result is None
    assert [file.name for file in tmp_path.iterdir()] == ["denoiser.pt"]


def test_filters_of_any_size_can_be_loaded(tmp_path):
    found = FieldsOfExperts(2, 4, max_steps=1).fit(*pictures(2))
    found.save(str(tmp_path / "field.pt"))
    back = FieldsOfExperts.load(str(tmp_path / "field.pt"))
    assert back.theta["filters"].shape == (2, 4, 4)
    with pytest.raises(ValueError, match="at least 5 pixels"):
        back.denoise(torch.zeros(4, 4))


def test_a_save_that_fails_leaves_the_earlier_file(tmp_path, monkeypatch):
    found, path = fitted(TVDenoiser), tmp_path / "denoiser.pt"
    found.save(path)
    before = path.read_bytes()

    def half(content, file):
        file.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="no space"):
        found.save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["denoiser.pt"]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "text", "other"])
def test_what_is_no_denoiser_is_refused(damage, tmp_path):
    path = tmp_path / "denoiser.pt"
    fitted(TVDenoiser).save(path)
    whole = path.read_bytes()
    if damage == "other":
        torch.save({"weight": torch.zeros(1)}, path)
    else:
        path.write_bytes(
            {
                "truncated": whole[: len(whole) // 2],
                "flipped": bytes(255 - byte for byte in whole),
                "empty": b"",
                "text": b"not a file of tensors",
            }[damage]
        )
    with pytest.raises(
        ValueError, match="must be a whole file that `save` of a denoiser wrote"
    ):
        TVDenoiser.load(path)


@pytest.mark.parametrize("kind", [TVDenoiser, FieldsOfExperts])
def test_no_damage_to_what_is_in_a_file_gets_through(kind, tmp_path):
    path, noisy = tmp_path / "denoiser.pt", pictures(1, seed=1)[1]
    fitted(kind).save(path)
    good = torch.load(path, weights_only=True)
    good["theta"] = {
        name: value[:2] if value.ndim else value for name, value in good["theta"].items()
    }
    refused = 0
    for what, bad in mutations(good):
        if isinstance(bad, dict) and "10**400" not in what:
            torch.save(bad, path)
            loaded, error = None, ""
            try:
                loaded = kind.load(path)
            except ValueError as raised:
                error = str(raised)
            if loaded is None:
                assert f"`{kind.__name__}" in error, what
                refused += 1
            else:
                assert bool(torch.as_tensor(loaded.denoise(noisy)).isfinite().all()), what
    assert refused > 80


def test_the_wrong_class_and_a_missing_file_are_named(tmp_path):
    path = tmp_path / "denoiser.pt"
    fitted(TVDenoiser).save(path)
    words = r"must hold a FieldsOfExperts, not a TVDenoiser: write TVDenoiser.load"
    with pytest.raises(ValueError, match=words):
        FieldsOfExperts.load(path)
    with pytest.raises(FileNotFoundError):
        TVDenoiser.load(tmp_path / "none.pt")
    with pytest.raises(ValueError, match=r"TVDenoiser.save\(theta={}\)` must be learned"):
        TVDenoiser().save(path)
