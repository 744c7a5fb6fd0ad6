"""G1, G4 to G7: steps, augmentation and loss on one CUDA GPU."""

import copy
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import nn

from hf_ssl import MAEConfig, SimCLRConfig
from hf_ssl.augment import ViewPolicy, make_views
from hf_ssl.benchmark.measuring import Comparison, Experiment, Options, Row, Side, require_cuda, require_package
from hf_ssl.benchmark.pairs.common import autocast
from hf_ssl.benchmark.pairs.mae import check_mae, mae_input, mae_pair
from hf_ssl.benchmark.pairs.simclr import check_simclr, simclr_input, simclr_pair
from hf_ssl.benchmark.rows.loss import DIM, check_equal, forward_backward, our_loss, projections
from hf_ssl.models.configuration import IMAGE_MEAN, IMAGE_STD

SIMCLR_BATCH = 512
MAE_BATCH = 512
# A check keeps activations of both sides in fp32.
CHECK_BATCH = 16
LIGHT_DECODER = {"decoder_hidden_size": 256, "decoder_num_layers": 4, "decoder_num_heads": 8}


def training_step(
    model: nn.Module, inputs: torch.Tensor, optimizer: torch.optim.Optimizer, **kwargs: torch.Tensor
) -> Callable[[], None]:
    """A whole step in bf16 autocast, as the training loop takes it."""

    def call() -> None:
        with autocast("bf16", "cuda"):
            output = model(inputs, **kwargs)
        (output if torch.is_tensor(output) else output.loss).backward()
        optimizer.step()
        optimizer.zero_grad()

    return call


def compiled(model: nn.Module) -> nn.Module:
    """A copy of a model as `hf-ssl pretrain --compile true` trains it."""
    model = copy.deepcopy(model)
    model.compile()
    return model


def _simclr(options: Options) -> Iterator[Experiment]:
    require_cuda()
    require_package("lightly")
    ours, peer = simclr_pair(SimCLRConfig(), "cuda")
    peer.to(memory_format=torch.channels_last)
    few = simclr_input(ours.config, CHECK_BATCH, "cuda")
    views = simclr_input(ours.config, SIMCLR_BATCH, "cuda")

    def sgd(model: nn.Module, **kwargs) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9, **kwargs)

    fast = compiled(ours)
    yield Experiment(
        label=f"{SIMCLR_BATCH} pairs",
        sides=(
            Side("hf_ssl", "bf16", training_step(fast, views, sgd(fast, fused=True))),
            Side("plain eager loop", "bf16", training_step(peer, views, sgd(peer))),
        ),
        comparisons=(
            Comparison("hf_ssl bf16", figure="rate", goal=3500.0, stretch=4500.0),
            Comparison("hf_ssl bf16", "plain eager loop bf16", goal=1.3),
        ),
        check=lambda: check_simclr(ours, peer, few),
        images=SIMCLR_BATCH,
        device="cuda",
    )


def _mae(options: Options) -> Iterator[Experiment]:
    require_cuda()
    ours, peer = mae_pair(MAEConfig(), "cuda")
    images, noise = mae_input(ours.config, MAE_BATCH, "cuda")
    fast = compiled(ours)
    yield Experiment(
        label=f"decoder 8×512, batch {MAE_BATCH}",
        sides=(
            Side("hf_ssl", "bf16", training_step(fast, images, _adamw(fast), noise=noise)),
            Side("transformers", "bf16", training_step(peer, images, _adamw(peer), noise=noise)),
        ),
        comparisons=(
            Comparison("hf_ssl bf16", figure="rate", goal=5500.0, stretch=7000.0),
            Comparison("hf_ssl bf16", "transformers bf16", goal=1.5),
        ),
        check=lambda: check_mae(ours, peer, images[:CHECK_BATCH], noise[:CHECK_BATCH], ("fp32", "bf16")),
        images=MAE_BATCH,
        device="cuda",
    )


def _light_mae(options: Options) -> Iterator[Experiment]:
    require_cuda()
    ours, peer = mae_pair(MAEConfig(**LIGHT_DECODER), "cuda")
    images, noise = mae_input(ours.config, MAE_BATCH, "cuda")
    fast = compiled(ours)
    yield Experiment(
        label=f"decoder 4×256, batch {MAE_BATCH}",
        sides=(
            Side("hf_ssl", "bf16", training_step(fast, images, _adamw(fast), noise=noise)),
            Side("transformers", "bf16", training_step(peer, images, _adamw(peer), noise=noise)),
        ),
        comparisons=(
            Comparison("hf_ssl bf16", figure="rate", goal=9500.0, stretch=12000.0),
            Comparison("hf_ssl bf16", "transformers bf16"),
        ),
        check=lambda: check_mae(ours, peer, images[:CHECK_BATCH], noise[:CHECK_BATCH], ("fp32", "bf16")),
        images=MAE_BATCH,
        device="cuda",
    )


def _adamw(model: nn.Module) -> torch.optim.Optimizer:
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    return torch.optim.AdamW(trained, lr=0.0, weight_decay=0.05, betas=(0.9, 0.95), fused=True)


def _views(options: Options) -> Iterator[Experiment]:
    require_cuda()
    batch, stored = 512, 256
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, 3, stored, stored), dtype=torch.uint8, generator=generator).cuda()
    sizes = torch.full((batch, 2), stored)
    policies = [ViewPolicy(), ViewPolicy()]

    def call() -> torch.Tensor:
        return make_views(images, sizes, policies, generator, 224, IMAGE_MEAN, IMAGE_STD)

    yield Experiment(
        label=f"{batch} images of {stored} px in device memory to 2 views of 224 px",
        sides=(Side("hf_ssl", "fp32", call),),
        comparisons=(Comparison("hf_ssl fp32", figure="rate", goal=200_000.0, stretch=1_000_000.0),),
        # That views are torchvision's, operation for operation, is a matter of tests/augment.
        check=None,
        images=2 * batch,
        device="cuda",
    )


def _loss(options: Options) -> Iterator[Experiment]:
    require_cuda()
    require_package("lightly")
    views = 262_144
    for precision in ("fp32", "bf16"):
        side = "fp32" if precision == "fp32" else "bf16 products"
        goal = None if precision == "fp32" else 0.5
        yield Experiment(
            label=f"2N = {views}, d = {DIM}, time",
            sides=(Side("hf_ssl", side, forward_backward(our_loss(precision), views, "cuda")),),
            comparisons=(Comparison(f"hf_ssl {side}", figure="value", goal=goal),),
            # A size at which lightly's fits.
            check=partial(check_equal, 8192, precision, "cuda"),
            device="cuda",
        )
        yield Experiment(
            label=f"2N = {views}, d = {DIM}, peak extra memory",
            sides=(Side("hf_ssl", side, partial(_loss_memory, precision, views), gives_reading=True),),
            comparisons=(Comparison(f"hf_ssl {side}", figure="value", goal=2.0**30),),
            check=None,
            quantity="bytes",
            device="cuda",
            repeats=1,
        )


def _loss_memory(precision: str, views: int) -> int:
    first, second = projections(views, device="cuda")
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    value = our_loss(precision).cuda()(first, second)
    torch.autograd.grad(value, [first, second])
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


ROWS = (
    Row("G1", "gpu", "SimCLR ResNet-50 at 224 px, whole step", _simclr),
    Row("G4", "gpu", "MAE ViT-B at 224 px, whole step", _mae),
    Row("G5", "gpu", "MAE ViT-B at 224 px with a light decoder, whole step", _light_mae),
    Row("G6", "gpu", "two-view augmentation", _views),
    Row("G7", "gpu", "NT-Xent forward + backward", _loss),
)
