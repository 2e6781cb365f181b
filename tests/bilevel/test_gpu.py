"""`hdet.bilevel` on a CUDA device comes to what it does on the CPU; skipped without one."""

import pytest
import torch

from hdet.bilevel import Problem, TVDenoiser, dfo_ls, maid, psnr

from .problems import denoising, quadratic, start

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def on(made, device):
    """Return a quadratic problem whose data are on a device; |J| is to be found."""
    a1, a2, a3, b1, b2 = (t.to(device) for t in (made.a1, made.a2, made.a3, made.b1, made.b2))
    return Problem(
        lambda x: (a1 @ x - b1).square().sum() / 2,
        lambda x, theta: (a2 @ x + a3 @ theta - b2).square().sum() / 2,
        mu=made.problem.mu,
        upper_smoothness=made.problem.upper_smoothness,
        upper_convex=True,
        inverse_hessian_lipschitz=0.0,
        jacobian_lipschitz=0.0,
    )


@pytest.mark.parametrize("solver", ["newton-cg", "lbfgs", "accelerated-gradient"])
def test_maid_comes_to_the_same(solver):
    made, (theta, x0) = quadratic(), start()
    given = {"accuracy": 1e-6, "max_steps": 10, "solver": solver}
    there = maid(on(made, "cuda"), theta.cuda(), x0.cuda(), **given)
    assert there.theta.is_cuda
    assert there.x.is_cuda
    here = maid(on(made, "cpu"), theta, x0, **given)
    torch.testing.assert_close(there.theta.cpu(), here.theta, rtol=1e-3, atol=1e-3)


def test_values_alone_go_down_too():
    pytest.importorskip("dfols")
    made, (theta, x0) = quadratic(rows=40, size=3, seed=2), start(3)
    result = dfo_ls(on(made, "cuda"), theta.cuda(), x0.cuda(), accuracy=1e-8, max_steps=50)
    assert result.theta.is_cuda
    assert result.value < float(made.f(theta))


def test_a_denoiser_stays_on_its_images_device():
    _, _, signals = denoising(samples=4, size=16)
    clean = signals[:, None, :].expand(-1, 16, -1).cuda()
    noisy = clean + 0.1 * torch.randn(clean.shape, dtype=clean.dtype).cuda()
    denoiser = TVDenoiser(budget=200).fit(clean, noisy)
    made = denoiser.denoise(noisy)
    assert made.is_cuda
    assert psnr(made, clean).mean() > psnr(noisy, clean).mean()
