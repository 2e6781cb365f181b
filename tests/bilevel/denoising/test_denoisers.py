"""Denoisers learn, denoise images of any number, and say what is wrong."""

import functools

import numpy as np
import pytest
import torch

from hdet.bilevel import FieldsOfExperts, Rules, Status, TVDenoiser, psnr, smoothed_tv
from hdet.bilevel.denoising import denoiser

from .pictures import pictures


def result_of(found):
    assert found.result is not None
    return found.result


MAKERS = {"tv": TVDenoiser, "foe": FieldsOfExperts}
EACH = pytest.mark.parametrize("name", MAKERS)


def made(name, **given):
    return MAKERS[name](rules=Rules(barzilai_borwein=True), **given)


@functools.cache
def learned(name):
    return made(name, budget=800).fit(*pictures(4))


@EACH
def test_learning_improves_training_and_other_images(name):
    found = learned(name)
    start = made(name, budget=800, max_steps=1).fit(*pictures(4))
    assert result_of(found).value < result_of(start).value
    for seed in (0, 1):
        clean, noisy = pictures(4, seed=seed)
        before = psnr(noisy, clean).mean()
        assert psnr(found.denoise(noisy), clean).mean() > before + 3


@EACH
def test_the_image_is_as_exact_as_was_asked_for(name):
    found, noisy = learned(name), pictures(2, seed=2)[1]
    exact = found.denoise(noisy, accuracy=1e-9)
    off = (found.denoise(noisy, accuracy=1e-2) - exact).square().mean((1, 2)).sqrt()
    assert float(off.max()) <= 1e-2


@EACH
def test_each_image_is_denoised_by_itself(name, monkeypatch):
    found, noisy = learned(name), pictures(6, 9, 13, seed=2)[1]
    batch = found.denoise(noisy)
    assert batch.shape == noisy.shape
    for image, together in zip(noisy, batch, strict=True):
        torch.testing.assert_close(found.denoise(image), together)
    colours = noisy.reshape(2, 3, 9, 13)
    torch.testing.assert_close(found.denoise(colours), batch.reshape(2, 3, 9, 13))
    # Two images at once.
    monkeypatch.setattr(denoiser, "_PIXELS", 2 * 9 * 13)
    torch.testing.assert_close(found.denoise(noisy), batch)


@EACH
def test_brightness_is_kept(name):
    found, noisy = learned(name), pictures(1, seed=2)[1]
    even = torch.full((9, 9), 0.7, dtype=torch.float64)
    torch.testing.assert_close(found.denoise(even), even)
    brighter = found.denoise(noisy + 0.3, accuracy=1e-8)
    torch.testing.assert_close(brighter, found.denoise(noisy, accuracy=1e-8) + 0.3)


def test_learned_filters_have_mean_zero():
    means = learned("foe").theta["filters"].mean((1, 2))
    torch.testing.assert_close(means, torch.zeros_like(means))


@EACH
def test_arrays_come_back_as_arrays(name):
    found, noisy = learned(name), pictures(2, seed=2)[1]
    array = found.denoise(noisy.numpy())
    assert isinstance(array, np.ndarray)
    assert np.array_equal(array, found.denoise(noisy).numpy())


@EACH
def test_float32_learns_and_denoises(name):
    clean, noisy = (images.float() for images in pictures(4))
    found = made(name, budget=800).fit(clean, noisy)
    assert {value.dtype for value in found.theta.values()} == {torch.float32}
    assert found.denoise(noisy).dtype == torch.float32
    assert psnr(found.denoise(noisy), clean).mean() > psnr(noisy, clean).mean() + 3
    assert found.denoise(noisy.double()).dtype == torch.float64


def test_an_accuracy_that_float32_lacks_is_said():
    noisy = pictures(2)[1].float()
    with pytest.warns(RuntimeWarning, match="reached an accuracy of .* instead of 1e-12"):
        assert learned("tv").denoise(noisy, accuracy=1e-12).isfinite().all()


@EACH
def test_learning_is_free_of_the_scale(name):
    clean, noisy = pictures(3)
    small = made(name, max_steps=1, budget=None).fit(clean, noisy)
    large = made(name, max_steps=1, budget=None).fit(255 * clean, 255 * noisy)
    ratio = psnr(result_of(large).x, 255 * clean, peak=255.0) - psnr(result_of(small).x, clean)
    assert float(ratio.abs().max()) < 0.5


def test_a_colour_image_teaches_as_its_channels_do():
    clean, noisy = pictures(3)
    one = TVDenoiser(budget=200).fit(clean, noisy)
    other = TVDenoiser(budget=200).fit(clean[None], noisy[None])
    assert torch.equal(one.theta["weight"], other.theta["weight"])


def test_two_numbers_learn_the_best_of_a_grid():
    clean, noisy = pictures(2)
    found = TVDenoiser(budget=1000).fit(clean, noisy)
    values = []
    for shift in (-0.4, 0.4):
        other = TVDenoiser()
        other.theta = found.theta | {"weight": found.theta["weight"] + shift}
        values.append(float((other.denoise(noisy, 1e-6) - clean).square().sum()) / 4)
    assert result_of(found).value < min(values)


def test_the_callback_sees_every_step_and_the_status_says_the_end():
    seen = []
    found = TVDenoiser(max_steps=2, budget=None, callback=lambda step, _: seen.append(step))
    found.fit(*pictures(2))
    assert result_of(found).history == seen
    assert result_of(found).status is Status.MAX_STEPS


@EACH
def test_a_fit_goes_on_from_where_it_stopped(name):
    images = pictures(2)
    whole = made(name, max_steps=3, budget=None).fit(*images)
    part = made(name, max_steps=2, budget=None).fit(*images)
    on = made(name, max_steps=3, budget=None).fit(*images, state=result_of(part).state)
    assert len(result_of(on).history) == 3
    assert all(torch.equal(on.theta[key], value) for key, value in whole.theta.items())


def test_a_fit_without_a_step_warns():
    with pytest.warns(UserWarning, match="learned nothing. .* raise `budget`"):
        TVDenoiser(budget=3).fit(*pictures(2))


def test_the_seed_chooses_the_filters():
    first, again, other = (
        FieldsOfExperts(2, 3, seed=seed, max_steps=1).fit(*pictures(2)).theta
        for seed in (0, 0, 1)
    )
    assert torch.equal(first["filters"], again["filters"])
    assert not torch.equal(first["filters"], other["filters"])


def wrong_inputs():
    clean, noisy = pictures(2)
    holes = noisy.clone()
    holes[0, 0, 0] = torch.nan
    return {
        "shapes": ((clean, noisy[:, 1:]), r"noisy.shape=.*must be that of clean"),
        "types": ((clean, noisy.float()), r"noisy.dtype=.*must be that of clean"),
        "bytes": (((255 * clean).byte(), noisy), r"clean.dtype=.*write image / 255.0"),
        "holes": ((clean, holes), r"noisy=nan\)` must be finite, and 1 of 288"),
        "small": ((clean[:, :4], noisy[:, :4]), r"clean.shape=\(2, 4, 12\).*at least 5"),
        "flat": ((clean[0, 0], noisy[0, 0]), r"clean.shape=\(12,\).*height and a width"),
        "last": ((clean[..., :3], noisy[..., :3]), r"move colours to the front"),
        "equal": ((clean, clean), r"must differ from clean: add the noise"),
    }


@pytest.mark.parametrize("case", list(wrong_inputs()))
@EACH
def test_images_that_cannot_teach_are_refused(name, case):
    images, message = wrong_inputs()[case]
    with pytest.raises(ValueError, match=message):
        made(name).fit(*images)


def test_other_wrong_arguments_are_refused():
    noisy = pictures(2)[1]
    with pytest.raises(ValueError, match="must be learned first: call fit, or load"):
        TVDenoiser().denoise(noisy)
    with pytest.raises(ValueError, match=r"denoise\(accuracy=0\)` must be finite and above 0"):
        learned("tv").denoise(noisy, accuracy=0)
    with pytest.raises(
        ValueError, match=r"FieldsOfExperts\(filters=0\)` must be a whole number"
    ):
        FieldsOfExperts(0)
    with pytest.raises(
        ValueError, match=r"FieldsOfExperts\(size=1\)` must be a whole number of at least 2"
    ):
        FieldsOfExperts(size=1)
    with pytest.raises(ValueError, match="at least 15 pixels"):
        FieldsOfExperts(2, 15).fit(*pictures(2))


def test_psnr_is_in_decibels_of_each_image():
    clean = torch.zeros(2, 5, 5)
    made = psnr(torch.stack([clean[0] + 0.1, clean[1] + 1]), clean)
    torch.testing.assert_close(made, torch.tensor([20.0, 0.0]))
    assert psnr(clean, clean)[0] == torch.inf
    assert float(psnr(clean[0] + 25.5, clean[0], peak=255.0)) == pytest.approx(20.0)


def test_the_lower_level_is_solved():
    found, noisy = learned("tv"), pictures(1, seed=2)[1]
    image = found.denoise(noisy, accuracy=1e-8).requires_grad_()
    value = smoothed_tv(image, noisy, found.theta).sum()
    assert float(torch.autograd.grad(value, image)[0].norm()) <= 1e-8 * 12
