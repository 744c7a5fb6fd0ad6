"""The gradient cache: chunks give what the whole batch gives."""

import copy
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from tiny_models import TINY, pretraining_input
from torch import nn
from transformers import AutoModelForPreTraining

from hf_ssl.training.gradient_cache import gradient_cached_backward


def vit(**kwargs) -> nn.Module:
    """SimCLR without batch statistics, in float64."""
    torch.manual_seed(0)
    backbone_kwargs = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 2, **kwargs}
    config = TINY["simclr"](backbone="vit_tiny_patch16_224", backbone_kwargs=backbone_kwargs, projection_norm="none")
    return AutoModelForPreTraining.from_config(config).double().train()


def images(batch: int = 7) -> torch.Tensor:
    return torch.randn(batch, 2, 3, 32, 32, generator=torch.Generator().manual_seed(1)).double()


def prepared(model: nn.Module, mixed_precision: str = "no") -> tuple[Accelerator, nn.Module]:
    AcceleratorState._reset_state()
    accelerator = Accelerator(cpu=True, mixed_precision=mixed_precision)
    return accelerator, accelerator.prepare(model)


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("chunk_size", [1, 3, 7, 100])
def test_equals_the_whole_batch(chunk_size):
    model = vit()
    expected = copy.deepcopy(model)
    expected_loss = expected(images()).loss / 4
    expected_loss.backward()
    accelerator, wrapped = prepared(model)
    loss = gradient_cached_backward(accelerator, wrapped, images(), chunk_size, scale=1 / 4)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, expected_loss.detach())
    torch.testing.assert_close(gradients(model), gradients(expected))


def test_equals_the_whole_batch_under_autocast():
    model = vit().float()
    expected = copy.deepcopy(model)
    accelerator, wrapped_expected = prepared(expected, "bf16")
    accelerator.backward(wrapped_expected(images().float()).loss)
    accelerator, wrapped = prepared(model, "bf16")
    gradient_cached_backward(accelerator, wrapped, images().float(), 3)
    for name, gradient in gradients(expected).items():
        found = gradients(model)[name]
        assert (found - gradient).norm() <= 0.05 * gradient.norm() + 1e-4, name


def test_drop_path_and_dropout_draw_the_same_in_both_passes():
    model = vit(drop_path_rate=0.5, proj_drop_rate=0.2)
    expected = copy.deepcopy(model)
    torch.manual_seed(5)
    # What chunks draw, and one loss over all: the graph of the whole batch.
    projections = torch.cat([expected(chunk, return_loss=False).projections for chunk in images().split(3)])
    expected_loss = expected.projection_loss(projections)
    expected_loss.backward()
    drawn_next = torch.rand(())
    accelerator, wrapped = prepared(model)
    torch.manual_seed(5)
    loss = gradient_cached_backward(accelerator, wrapped, images(), 3)
    assert torch.rand(()) == drawn_next
    torch.testing.assert_close(loss, expected_loss.detach())
    torch.testing.assert_close(gradients(model), gradients(expected))


def test_running_statistics_advance_as_if_chunks_were_seen_once():
    torch.manual_seed(0)
    model = AutoModelForPreTraining.from_config(TINY["simclr"]()).train()
    expected = copy.deepcopy(model)
    pixel_values = images(6).float()
    with torch.no_grad():
        for chunk in pixel_values.split(2):
            expected(chunk)
    assert not torch.equal(expected.encoder.bn1.running_mean, model.encoder.bn1.running_mean)
    accelerator, wrapped = prepared(model)
    gradient_cached_backward(accelerator, wrapped, pixel_values, 2)
    torch.testing.assert_close(dict(model.named_buffers()), dict(expected.named_buffers()))


def test_no_graph_holds_more_than_a_chunk():
    model = vit()
    accelerator, wrapped = prepared(model)
    # What each graph saves is alive from its forward to its backward.
    alive, most, with_graph = [0], [0], []
    model.encoder.register_forward_pre_hook(
        lambda module, inputs: with_graph.append(len(inputs[0]) if torch.is_grad_enabled() else 0)
    )

    class Saved:
        def __init__(self, tensor):
            self.tensor, self.size = tensor, tensor.numel()
            alive[0] += self.size
            most[0] = max(most[0], alive[0])

        def __del__(self):
            alive[0] -= self.size

    def most_saved(run) -> int:
        alive[0] = most[0] = 0
        with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
            run()
        return most[0]

    one_chunk = most_saved(lambda: wrapped(images(2)).loss.backward())
    with_graph.clear()
    cached = most_saved(lambda: gradient_cached_backward(accelerator, wrapped, images(16), 2))
    assert with_graph == [0] * 8 + [4] * 8
    assert cached < 1.2 * one_chunk


def test_a_loss_that_is_a_mean_over_images_is_refused_with_the_alternative():
    config = TINY["mae"]()
    accelerator, wrapped = prepared(AutoModelForPreTraining.from_config(config))
    with pytest.raises(ValueError, match="mean over images; leave it out and raise gradient_accumulation_steps"):
        gradient_cached_backward(accelerator, wrapped, pretraining_input(config), 2)


def _one_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE="2")
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    model = vit()
    accelerator, wrapped = prepared(model)
    assert isinstance(wrapped, nn.parallel.DistributedDataParallel)
    # Two micro-batches, of which the second synchronises; interleaved, as the loader gives images to ranks.
    for micro, micro_batch in enumerate(images(12).split(6)):
        gradient_cached_backward(accelerator, wrapped, micro_batch[rank::2], 2, scale=1 / 2, synchronize=micro == 1)
        torch.save(gradients(model), f"{folder}/{rank}-{micro}.pt")
    dist.destroy_process_group()


def test_two_processes_with_accumulation_equal_one(tmp_path: Path):
    mp.spawn(_one_rank, args=(str(tmp_path),), nprocs=2)
    model = vit()
    for micro_batch in images(12).split(6):
        (model(micro_batch).loss / 2).backward()
    unsynchronized = [torch.load(tmp_path / f"{rank}-0.pt") for rank in range(2)]
    assert any(not torch.equal(unsynchronized[0][name], unsynchronized[1][name]) for name in unsynchronized[0])
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}-1.pt"), gradients(model))
