"""Contrastive batches beyond memory: gradient cache (Gao et al. 2021, https://arxiv.org/abs/2101.06983, section 3).

A contrastive loss needs the projections of the whole batch, but not the activations behind them. So chunks of the
batch are encoded without a graph, the loss gives the gradient of the projections, and chunks are encoded once more,
each with a graph that this gradient goes back through. Memory is that of a chunk, for one more forward.
"""

from contextlib import nullcontext

import torch
from accelerate import Accelerator
from torch import nn


def check_gradient_cache(model: nn.Module) -> None:
    """Refuse a model whose loss is not one of projections.

    Raises:
        ValueError: for such a model.
    """
    if not model.supports_gradient_cache:
        raise ValueError(
            f"gradient_cache_chunk_size is for losses that compare images, and that of {type(model).__name__} is a "
            "mean over images; leave it out and raise gradient_accumulation_steps, which gives the same gradient."
        )


def gradient_cached_backward(
    accelerator: Accelerator,
    wrapped: nn.Module,
    pixel_values: torch.Tensor,
    chunk_size: int,
    scale: float = 1.0,
    synchronize: bool = True,
) -> torch.Tensor:
    """Forward and backward of one batch, with the activations of no more than `chunk_size` images in memory.

    Gradients are added to those of the parameters, and are the whole batch's for encoders that treat images one by
    one; dropout and drop path draw the same in both passes. Batch norm does not treat them so: its statistics are
    those of a chunk (with SyncBatchNorm, of that chunk in all processes), as they are with gradient accumulation, so
    gradients differ from those of the whole batch and chunks should not be small. Running statistics advance as if
    every chunk had been seen once.

    Args:
        accelerator: which `wrapped` was prepared by.
        wrapped: a pretraining model in training mode, that supports the gradient cache.
        pixel_values: (batch, views, 3, height, width), as the model takes them. Every process must hold as many.
        chunk_size: images of a chunk; the last may be smaller.
        scale: what the loss is multiplied by, such as 1 / gradient_accumulation_steps.
        synchronize: whether processes exchange gradients, with the last chunk; False in all but the last micro-batch
            of a step.

    Returns:
        The loss times `scale`, detached.

    Raises:
        ValueError: if the model does not support the gradient cache.
    """
    # Not through DDP, which would broadcast buffers and has no gradients to exchange yet.
    model = accelerator.unwrap_model(wrapped)
    check_gradient_cache(model)
    device = pixel_values.device
    chunks = pixel_values.split(chunk_size)

    states = _random_states(device)
    buffers = [buffer.clone() for buffer in model.buffers()]
    with torch.no_grad():
        projections = torch.cat([model(chunk, return_loss=False).projections for chunk in chunks])
        for buffer, before in zip(model.buffers(), buffers, strict=True):
            buffer.copy_(before)

    projections.requires_grad_()
    with accelerator.autocast():
        loss = model.projection_loss(projections) * scale
    (gradient,) = torch.autograd.grad(loss, projections)

    # Once for all chunks: they come in the same order again, and the loss drew nothing in between.
    _set_random_states(device, states)
    for index, (chunk, gradient_of_chunk) in enumerate(zip(chunks, gradient.split(chunk_size), strict=True)):
        last = index == len(chunks) - 1
        with nullcontext() if last and synchronize else accelerator.no_sync(wrapped):
            output = wrapped(chunk, return_loss=False)
            accelerator.backward((output.projections * gradient_of_chunk).sum())
    return loss.detach()


def _random_states(device: torch.device) -> list[torch.Tensor]:
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states


def _set_random_states(device: torch.device, states: list[torch.Tensor]) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
