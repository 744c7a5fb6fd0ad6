"""NT-Xent against the definition, in one process and in two."""

import math

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F

import hf_ssl.losses.tiled_logsumexp as tiled_logsumexp
from hf_ssl import NTXentLoss
from hf_ssl.losses.tiled_logsumexp import log2_sum_exp2, log2_sum_exp2_of_pairs


def reference(z0: torch.Tensor, z1: torch.Tensor, temperature: float) -> torch.Tensor:
    """Equation 1 of the paper, anchor by anchor, in float64."""
    z = torch.cat([z0, z1]).double()
    n = len(z0)
    losses = []
    for i in range(2 * n):
        j = (i + n) % (2 * n)
        similarity = F.cosine_similarity(z[i][None], z) / temperature
        others = torch.tensor([k for k in range(2 * n) if k != i])
        losses.append(-similarity[j] + torch.logsumexp(similarity[others], dim=0))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("temperature", [0.01, 0.1, 0.5, 1.0])
def test_equals_the_definition_in_float64(temperature):
    torch.manual_seed(0)
    z = torch.randn(2, 7, 16, requires_grad=True)
    loss = NTXentLoss(temperature)(z[0], z[1])
    expected = reference(z[0], z[1], temperature)
    (gradient,) = torch.autograd.grad(loss, z)
    (expected_gradient,) = torch.autograd.grad(expected, z)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_collapsed_encoder_gives_the_logarithm_of_the_candidates(dtype):
    z = torch.ones(16, 8, dtype=dtype)
    loss = NTXentLoss(0.01)(z, z)
    assert loss.item() == pytest.approx(math.log(2 * 16 - 1), abs=1e-4)


def test_is_computed_in_float32_under_autocast():
    torch.manual_seed(0)
    z0, z1 = torch.randn(2, 32, 16)
    with torch.autocast("cpu", torch.bfloat16):
        loss = NTXentLoss(0.1)(z0, z1)
    torch.testing.assert_close(loss, NTXentLoss(0.1)(z0, z1), rtol=0, atol=0)


# 14 views in tiles that divide them, do not, and leave one row over; in one tile.
@pytest.mark.parametrize("tile", [7, 4, 2, 13, 512])
@pytest.mark.parametrize("temperature", [0.01, 0.02, 0.1, 1.0])
def test_tiles_equal_the_definition(monkeypatch, tile, temperature):
    monkeypatch.setattr(tiled_logsumexp, "CPU_TILE", tile)
    torch.manual_seed(0)
    z = torch.randn(2, 7, 16, dtype=torch.float64, requires_grad=True)
    loss = NTXentLoss(temperature)(z[0], z[1])
    assert loss.dtype == torch.float64
    expected = reference(z[0], z[1], temperature)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, z), torch.autograd.grad(expected, z))


@pytest.mark.parametrize("temperature", [0.01, 0.02, 0.1])
def test_an_anchor_that_is_unlike_all_others_is_not_lost(temperature):
    # All its cosines are about −1: exp((cosine − 1)/τ) would be 0 in float32 at τ = 0.01, exp(−cosine/τ) infinite.
    torch.manual_seed(0)
    z = torch.ones(2, 6, 8) + 0.01 * torch.randn(2, 6, 8)
    z[0, 0] *= -1
    z.requires_grad_()
    loss, expected = NTXentLoss(temperature)(z[0], z[1]), reference(z[0], z[1], temperature)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    (gradient,), (expected_gradient,) = torch.autograd.grad(loss, z), torch.autograd.grad(expected, z)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-3, atol=1e-5)


def test_the_gradient_of_the_tiled_sums_is_that_of_finite_differences(monkeypatch):
    monkeypatch.setattr(tiled_logsumexp, "CPU_TILE", 3)
    z = torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(log2_sum_exp2_of_pairs, z)
    anchors = z[2:6].detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda anchors, candidates: log2_sum_exp2(anchors, candidates, 2), (anchors, z))
    torch.testing.assert_close(log2_sum_exp2_of_pairs(z)[2:6], log2_sum_exp2(anchors, z, 2))


@pytest.mark.parametrize("temperature", [0.01, 0.1])
def test_no_more_than_a_tile_of_the_similarities_exists_at_once(monkeypatch, temperature):
    monkeypatch.setattr(tiled_logsumexp, "CPU_TILE", 8)
    product, sizes = tiled_logsumexp._product, []

    def measured(a, b):
        result = product(a, b)
        sizes.append(result.numel())
        return result

    monkeypatch.setattr(tiled_logsumexp, "_product", measured)
    z = torch.randn(2, 32, 4, requires_grad=True)
    NTXentLoss(temperature)(z[0], z[1]).backward()
    assert len(sizes) > 8 and max(sizes) <= 8 * 32


@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0])
def test_bfloat16_products_are_nt_xent_of_rounded_unit_vectors(monkeypatch, temperature):
    monkeypatch.setattr(tiled_logsumexp, "CPU_TILE", 24)
    torch.manual_seed(0)
    z = torch.randn(2, 64, 32, requires_grad=True)
    loss = NTXentLoss(temperature, products_dtype=torch.bfloat16)(z[0], z[1])
    (gradient,) = torch.autograd.grad(loss, z)
    # In full precision on the vectors as they were rounded, with the gradient passed straight through.
    scale = (math.log2(math.e) / temperature) ** 0.5
    unit = F.normalize(z, dim=2)
    rounded = unit + ((unit * scale).bfloat16().float() / scale - unit).detach()
    logits = (rounded.flatten(0, 1) @ rounded.flatten(0, 1).T / temperature).fill_diagonal_(float("-inf"))
    expected = F.cross_entropy(logits, (torch.arange(128) + 64) % 128)
    (expected_gradient,) = torch.autograd.grad(expected, z)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    assert (gradient - expected_gradient).norm() < 0.01 * expected_gradient.norm()


def test_refuses_what_it_cannot_contrast():
    with pytest.raises(ValueError, match="positive"):
        NTXentLoss(0.0)
    with pytest.raises(ValueError, match="products_dtype is torch.float16; choose torch.bfloat16"):
        NTXentLoss(0.5, products_dtype=torch.float16)
    with pytest.raises(ValueError, match=r"\(3, 4\).*\(2, 4\)"):
        NTXentLoss(0.5)(torch.randn(3, 4), torch.randn(2, 4))


def _encoder() -> torch.nn.Module:
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Linear(6, 12), torch.nn.Tanh(), torch.nn.Linear(12, 5))


def _views() -> torch.Tensor:
    return torch.randn(2, 8, 6, generator=torch.Generator().manual_seed(4))


def _one_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    encoder = torch.nn.parallel.DistributedDataParallel(_encoder())
    # Interleaved, as the loader gives images to ranks.
    views = _views()[:, rank::2]
    loss = NTXentLoss(0.2)(encoder(views[0]), encoder(views[1]))
    loss.backward()
    gradient = torch.cat([weight.grad.flatten() for weight in encoder.parameters()])
    torch.save((loss.detach(), gradient), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_under_ddp_equal_one_process_on_the_whole_batch(tmp_path):
    mp.spawn(_one_rank, args=(str(tmp_path),), nprocs=2)
    losses, gradients = zip(*(torch.load(tmp_path / f"{rank}.pt") for rank in range(2)), strict=True)

    encoder, views = _encoder(), _views()
    loss = NTXentLoss(0.2)(encoder(views[0]), encoder(views[1]))
    loss.backward()
    gradient = torch.cat([weight.grad.flatten() for weight in encoder.parameters()])
    torch.testing.assert_close(sum(losses) / 2, loss.detach(), rtol=1e-5, atol=1e-6)
    for rank_gradient in gradients:
        torch.testing.assert_close(rank_gradient, gradient, rtol=1e-4, atol=1e-6)
