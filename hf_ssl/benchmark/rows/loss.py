"""C5 to C7: NT-Xent forward and backward against lightly's NTXentLoss, in time and in memory."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import nn

from hf_ssl.benchmark.checks import check_close, join
from hf_ssl.benchmark.measuring import Comparison, Experiment, Options, Row, Side, require_memory, require_package
from hf_ssl.benchmark.memory import peak_extra_memory
from hf_ssl.losses.nt_xent import NTXentLoss

DIM = 128
TEMPERATURE = 0.1
# What lightly's takes at 16,384 views, with a margin.
PEER_GIBIBYTES = 6


def projections(views: int, dim: int = DIM, device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """Two batches of views/2 projections, float32, in which the views of an image resemble each other."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(views // 2, dim, generator=generator)
    # As early in training: the loss is a few nats. A loss near 0 would be all rounding.
    second = first + 2 * torch.randn(views // 2, dim, generator=generator)
    return first.to(device).requires_grad_(), second.to(device).requires_grad_()


def our_loss(precision: str) -> nn.Module:
    """Ours, with float32 or bf16 products."""
    return NTXentLoss(TEMPERATURE, products_dtype=None if precision == "fp32" else torch.bfloat16)


def peer_loss() -> nn.Module:
    """lightly's, which has no memory bank unless asked for one."""
    from lightly.loss import NTXentLoss as LightlyNTXentLoss

    return LightlyNTXentLoss(TEMPERATURE)


def forward_backward(loss: nn.Module, views: int, device: str = "cpu") -> Callable[[], list[torch.Tensor]]:
    """A call that gives the loss and the gradients of both batches."""
    first, second = projections(views, device=device)

    def call() -> list[torch.Tensor]:
        value = loss(first, second)
        return [value.detach(), *torch.autograd.grad(value, [first, second])]

    return call


def check_equal(views: int, precision: str = "fp32", device: str = "cpu") -> str:
    """The loss to 1e-5 and the gradients to 1e-4 of lightly's in float32; to 1 % and 2 % with bf16 products."""
    loss_tolerance, gradient_tolerance = (1e-5, 1e-4) if precision == "fp32" else (1e-2, 2e-2)
    ours, peer = (forward_backward(loss, views, device)() for loss in (our_loss(precision), peer_loss()))
    return join(
        [
            check_close("loss", ours[0], peer[0], loss_tolerance),
            check_close("gradients", torch.cat(ours[1:]), torch.cat(peer[1:]), gradient_tolerance),
        ]
    )


def _time_fp32(options: Options) -> Iterator[Experiment]:
    require_package("lightly")
    require_memory(PEER_GIBIBYTES)
    for views, goal, stretch in ((4096, 4.5, 6.0), (16384, 8.0, 10.0)):
        yield Experiment(
            label=f"2N = {views}, d = {DIM}",
            sides=(
                Side("hf_ssl", "fp32", forward_backward(our_loss("fp32"), views)),
                Side("lightly", "fp32", forward_backward(peer_loss(), views)),
            ),
            comparisons=(Comparison("hf_ssl fp32", "lightly fp32", goal=goal, stretch=stretch),),
            check=partial(check_equal, views),
        )


def _time_bf16(options: Options) -> Iterator[Experiment]:
    require_package("lightly")
    require_memory(PEER_GIBIBYTES)
    views = 16384
    yield Experiment(
        label=f"2N = {views}, d = {DIM}",
        sides=(
            Side("hf_ssl", "bf16 products", forward_backward(our_loss("bf16"), views)),
            Side("hf_ssl", "fp32", forward_backward(our_loss("fp32"), views)),
            Side("lightly", "fp32", forward_backward(peer_loss(), views)),
        ),
        comparisons=(
            Comparison("hf_ssl bf16 products", "lightly fp32", goal=15.0, stretch=20.0),
            Comparison("hf_ssl fp32", "lightly fp32"),
        ),
        check=partial(check_equal, 4096, "bf16"),
    )


def memory_call(side: str, views: int) -> Callable[[], list[torch.Tensor]]:
    """What a fresh process measures the memory of."""
    return forward_backward(our_loss("fp32") if side == "hf_ssl" else peer_loss(), views)


def _memory(options: Options) -> Iterator[Experiment]:
    require_package("lightly")
    require_memory(PEER_GIBIBYTES)
    views = 16384
    yield Experiment(
        label=f"2N = {views}, d = {DIM}",
        sides=tuple(
            Side(side, "fp32", partial(peak_extra_memory, memory_call, (side, 64), (side, views)), gives_reading=True)
            for side in ("hf_ssl", "lightly")
        ),
        comparisons=(Comparison("hf_ssl fp32", "lightly fp32", figure="share", goal=0.03, stretch=0.01),),
        check=partial(check_equal, 4096),
        quantity="bytes",
        # A process allocates the same each time.
        repeats=3,
    )
    views = 65536
    yield Experiment(
        label=f"2N = {views}, d = {DIM}",
        sides=(
            Side(
                "hf_ssl",
                "fp32",
                partial(peak_extra_memory, memory_call, ("hf_ssl", 64), ("hf_ssl", views)),
                gives_reading=True,
            ),
        ),
        comparisons=(Comparison("hf_ssl fp32", figure="value", goal=2.0**30),),
        check=None,
        quantity="bytes",
        repeats=1,
    )


ROWS = (
    Row("C5", "loss", "NT-Xent forward + backward", _time_fp32),
    Row("C6", "loss", "NT-Xent forward + backward, peak extra memory", _memory),
    Row("C7", "loss", "NT-Xent forward + backward with bf16 products", _time_bf16),
)
