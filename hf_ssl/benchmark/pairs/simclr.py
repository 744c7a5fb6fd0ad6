"""Our SimCLR and the same network in the style of lightly's documentation."""

import copy
from collections.abc import Callable

import torch
from torch import nn

from hf_ssl import SimCLRConfig, SimCLRForPreTraining
from hf_ssl.benchmark.checks import check_close, check_gradients, join
from hf_ssl.benchmark.pairs.common import autocast, gradients


class LightlyStyleSimCLR(nn.Module):
    """SimCLR as lightly's documentation builds it: a backbone, its projection head, a pass for each view, its loss."""

    def __init__(self, ours: SimCLRForPreTraining):
        from lightly.loss import NTXentLoss
        from lightly.models.modules.heads import ProjectionHead

        super().__init__()
        self.backbone = copy.deepcopy(ours.encoder)
        self.projection_head = ProjectionHead(_blocks(ours.projection_head))
        self.criterion = NTXentLoss(ours.config.temperature)
        self.copy_weights(ours)

    def copy_weights(self, ours: SimCLRForPreTraining) -> None:
        """Take over weights and running statistics."""
        self.backbone.load_state_dict(ours.encoder.state_dict())
        # Both heads are linear layers and norms in the same order; only the names differ.
        names, weights = self.projection_head.state_dict(), ours.projection_head.state_dict().values()
        self.projection_head.load_state_dict(dict(zip(names, weights, strict=True)))

    def gradients(self, ours: SimCLRForPreTraining) -> dict[str, torch.Tensor]:
        """The gradients by the names of our parameters."""
        mine = [*self.backbone.parameters(), *self.projection_head.parameters()]
        names = [name for name, _ in ours.named_parameters()]
        return {name: weight.grad for name, weight in zip(names, mine, strict=True)}

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        """The loss of (batch, 2, 3, height, width) views."""
        first, second = (self.projection_head(self.backbone(views[:, view].contiguous())) for view in (0, 1))
        return self.criterion(first, second)


def _blocks(head: nn.Sequential) -> list[tuple]:
    """Layers as lightly's ProjectionHead takes them; its SimCLRProjectionHead is a norm behind every layer."""
    blocks = []
    for layer in head:
        if isinstance(layer, nn.Linear):
            blocks.append([layer.in_features, layer.out_features, None, None, layer.bias is not None])
        elif isinstance(layer, nn.BatchNorm1d):
            blocks[-1][2] = nn.BatchNorm1d(layer.num_features)
        else:
            blocks[-1][3] = nn.ReLU()
    return [tuple(block) for block in blocks]


def simclr_pair(config: SimCLRConfig, device: str = "cpu") -> tuple[SimCLRForPreTraining, LightlyStyleSimCLR]:
    """Our SimCLR in channels_last and lightly's style of it, with the same weights."""
    torch.manual_seed(0)
    ours = SimCLRForPreTraining(config)
    peer = LightlyStyleSimCLR(ours)
    return ours.to(device, memory_format=torch.channels_last).train(), peer.to(device).train()


def simclr_input(config: SimCLRConfig, batch: int, device: str = "cpu") -> torch.Tensor:
    """Normalised views in which the two of an image resemble each other."""
    generator = torch.Generator().manual_seed(1)
    shape = (batch, 1, 3, config.image_size, config.image_size)
    image = torch.randn(shape, generator=generator)
    views = image + 0.5 * torch.randn(batch, 2, *shape[2:], generator=generator)
    return views.to(device)


def check_simclr(ours: SimCLRForPreTraining, peer: LightlyStyleSimCLR, views: torch.Tensor) -> str:
    """Loss and gradients in fp32 with frozen batch statistics: to 1e-4 and 1e-3; then the loss in bf16 to 2 %.

    In training mode the two differ by design: one pass normalises by the statistics of both views, as the official
    code does, two passes by each view's own.
    """
    _take_statistics(ours, views)
    peer.copy_weights(ours)
    ours.eval()
    peer.eval()
    ours_loss, peer_loss = ours(views).loss, peer(views)
    ours_loss.backward()
    peer_loss.backward()
    found = [
        check_close("fp32 loss with frozen batch statistics", ours_loss, peer_loss, 1e-4),
        check_gradients(gradients(ours), peer.gradients(ours), 1e-3, what="its gradients"),
    ]
    with torch.no_grad(), autocast("bf16", views.device.type):
        found.append(check_close("bf16 loss", ours(views).loss, peer_loss, 2e-2))
    for model in (ours, peer):
        model.zero_grad()
        model.train()
    return join(found)


@torch.no_grad()
def _take_statistics(model: nn.Module, views: torch.Tensor) -> None:
    """Running statistics of these views: those of a fresh model would let activations grow from block to block."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    model.train()
    model(views)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def simclr_step(model: nn.Module, views: torch.Tensor, precision: str) -> Callable[[], None]:
    """Forward and backward."""

    def call() -> None:
        with autocast(precision, views.device.type):
            output = model(views)
        loss = output if torch.is_tensor(output) else output.loss
        loss.backward()
        model.zero_grad()

    return call
