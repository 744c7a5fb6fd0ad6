"""C8 to C10: training steps of MAE against transformers' ViTMAE, and of SimCLR against the loop lightly documents."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext

import torch
from timm.layers import set_fused_attn
from torch import nn
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from hf_ssl import MAEConfig, MAEForPreTraining, SimCLRConfig, SimCLRForPreTraining
from hf_ssl.benchmark.checks import check_close, check_gradients, join
from hf_ssl.benchmark.measuring import (
    Comparison,
    Experiment,
    NotMeasuredError,
    Options,
    Row,
    Side,
    require_package,
)

MAE_BATCH = 8
SIMCLR_BATCHES = {224: 8, 64: 64}


def autocast(precision: str, device: str = "cpu"):
    """bf16 autocast, or nothing for fp32."""
    return torch.autocast(device, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()


def mae_pair(config: MAEConfig, device: str = "cpu") -> tuple[MAEForPreTraining, ViTMAEForPreTraining]:
    """Our MAE and transformers', with the same weights.

    The attention is each side's default: ours as `hf_ssl pretrain` sets it for the device, theirs "sdpa".
    """
    torch.manual_seed(0)
    set_fused_attn(enable=device != "cpu")
    ours = MAEForPreTraining(config)
    first = ours.blocks[0]
    peer = ViTMAEForPreTraining(
        ViTMAEConfig(
            hidden_size=ours.norm.normalized_shape[0],
            num_hidden_layers=len(ours.blocks),
            num_attention_heads=first.attn.num_heads,
            intermediate_size=first.mlp.fc1.out_features,
            layer_norm_eps=first.norm1.eps,
            image_size=config.image_size,
            patch_size=config.patch_size,
            decoder_hidden_size=config.decoder_hidden_size,
            decoder_num_hidden_layers=config.decoder_num_layers,
            decoder_num_attention_heads=config.decoder_num_heads,
            decoder_intermediate_size=4 * config.decoder_hidden_size,
            mask_ratio=config.mask_ratio,
            norm_pix_loss=config.norm_pix_loss,
        )
    )
    try:
        peer.load_state_dict(in_peer_layout(ours.state_dict()))
    except RuntimeError as error:
        raise NotMeasuredError("this transformers names ViTMAE's weights in another way; upgrade it") from error
    return ours.to(device).train(), peer.to(device).train()


def in_peer_layout(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights or gradients of our MAE by transformers' names, queries, keys and values apart."""
    modules = {
        "attn.proj": "attention.o_proj",
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }
    top = {
        "cls_token": "vit.embeddings.cls_token",
        "pos_embed": "vit.embeddings.position_embeddings",
        "patch_embed.proj": "vit.embeddings.patch_embeddings.projection",
        "norm": "vit.layernorm",
    }
    layout = {}
    for name, tensor in tensors.items():
        stem, _, kind = name.rpartition(".")
        part, _, rest = stem.partition("blocks.")
        if part not in ("", "decoder_") or not rest:
            # Parameters have no module before them, so that the whole name is looked up.
            place = f"{top[stem]}.{kind}" if stem in top else top.get(name, f"decoder.{name}")
            layout[place] = tensor
            continue
        number, _, module = rest.partition(".")
        layer = f"{'decoder.decoder_' if part else 'vit.'}layers.{number}"
        if module == "attn.qkv":
            for projection, chunk in zip("qkv", tensor.chunk(3), strict=True):
                layout[f"{layer}.attention.{projection}_proj.{kind}"] = chunk
        else:
            layout[f"{layer}.{modules[module]}.{kind}"] = tensor
    return layout


def mae_input(config: MAEConfig, batch: int, device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised random images and the noise that chooses patches."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(batch, 3, config.image_size, config.image_size, generator=generator)
    return images.to(device), torch.rand(batch, config.num_patches, generator=generator).to(device)


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    """The gradients of a model by its parameters' names."""
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def check_mae(
    ours: nn.Module, peer: nn.Module, images: torch.Tensor, noise: torch.Tensor, precisions: tuple[str, ...]
) -> str:
    """Loss and gradients on the same images and masks: to 1e-5 and 1e-4 in fp32, to 1 % and 5 % in bf16 autocast.

    What bf16 gives on either side is held against the peer's fp32.
    """
    device = images.device.type
    losses, grads = {}, {}
    for side, model in (("ours", ours), ("peer", peer)):
        for precision in precisions:
            model.zero_grad()
            with autocast(precision, device):
                loss = model(images, noise=noise).loss
            loss.backward()
            losses[side, precision] = loss.detach()
            grads[side, precision] = {name: gradient.clone() for name, gradient in gradients(model).items()}
            if side == "ours":
                grads[side, precision] = in_peer_layout(grads[side, precision])
        model.zero_grad()
    found = []
    for side, precision in losses:
        if (side, precision) == ("peer", "fp32"):
            continue
        loss_tolerance, tolerance = (1e-5, 1e-4) if precision == "fp32" else (1e-2, 5e-2)
        title = f"{'hf_ssl' if side == 'ours' else 'transformers'} {precision}"
        found += [
            check_close(f"{title} loss", losses[side, precision], losses["peer", "fp32"], loss_tolerance),
            check_gradients(grads[side, precision], grads["peer", "fp32"], tolerance, what=f"{title} gradients"),
        ]
    return join(found)


def mae_step(
    model: nn.Module,
    images: torch.Tensor,
    noise: torch.Tensor,
    precision: str,
    optimizer: torch.optim.Optimizer | None = None,
) -> Callable[[], None]:
    """Forward and backward, and the optimiser if there is one."""

    def call() -> None:
        with autocast(precision, images.device.type):
            loss = model(images, noise=noise).loss
        loss.backward()
        if optimizer is None:
            model.zero_grad()
        else:
            optimizer.step()
            optimizer.zero_grad()

    return call


def mae_experiment(config: MAEConfig, batch: int) -> Experiment:
    """Forward and backward of both in both precisions."""
    ours, peer = mae_pair(config)
    images, noise = mae_input(config, batch)
    sides = [
        Side(name, precision, mae_step(model, images, noise, precision))
        for name, model in (("hf_ssl", ours), ("transformers", peer))
        for precision in ("bf16", "fp32")
    ]
    return Experiment(
        label=f"batch {batch}",
        sides=sides,
        comparisons=(
            Comparison("hf_ssl bf16", "transformers fp32", goal=3.3, stretch=3.8),
            Comparison("hf_ssl bf16", "transformers bf16", goal=1.35, stretch=1.5),
            Comparison("hf_ssl fp32", "transformers fp32"),
        ),
        check=lambda: check_mae(ours, peer, images, noise, ("fp32", "bf16")),
        images=batch,
    )


def _mae(options: Options) -> Iterator[Experiment]:
    yield mae_experiment(MAEConfig(), MAE_BATCH)


def _mae_with_optimizer(options: Options) -> Iterator[Experiment]:
    config = MAEConfig()
    images, noise = mae_input(config, MAE_BATCH)
    ours, peer = mae_pair(config)
    fp32 = copy.deepcopy(ours)

    def adamw(model: nn.Module, **kwargs) -> torch.optim.Optimizer:
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        # A rate of 0 costs the same and leaves both where the check found them equal.
        return torch.optim.AdamW(trained, lr=0.0, weight_decay=0.05, betas=(0.9, 0.95), **kwargs)

    yield Experiment(
        label=f"batch {MAE_BATCH}",
        sides=(
            Side("hf_ssl", "bf16", mae_step(ours, images, noise, "bf16", adamw(ours, fused=True))),
            Side("hf_ssl", "fp32", mae_step(fp32, images, noise, "fp32", adamw(fp32, fused=True))),
            Side("transformers", "fp32", mae_step(peer, images, noise, "fp32", adamw(peer))),
        ),
        comparisons=(
            Comparison("hf_ssl bf16", "transformers fp32", goal=3.5, stretch=4.0),
            Comparison("hf_ssl fp32", "transformers fp32"),
        ),
        check=lambda: check_mae(ours, peer, images, noise, ("fp32", "bf16")),
        images=MAE_BATCH,
    )


class LightlyStyleSimCLR(nn.Module):
    """SimCLR as lightly's documentation builds it: a backbone, its projection head, a pass for each view, its loss."""

    def __init__(self, ours: SimCLRForPreTraining):
        from lightly.loss import NTXentLoss
        from lightly.models.modules import SimCLRProjectionHead

        super().__init__()
        linears = [layer for layer in ours.projection_head if isinstance(layer, nn.Linear)]
        self.backbone = copy.deepcopy(ours.encoder)
        self.projection_head = SimCLRProjectionHead(
            linears[0].in_features, linears[0].out_features, linears[-1].out_features, num_layers=len(linears)
        )
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


def simclr_experiment(config: SimCLRConfig, batch: int, goal: float, stretch: float) -> Experiment:
    """Forward and backward of both; the peer's loop has no autocast."""
    ours, peer = simclr_pair(config)
    views = simclr_input(config, batch)
    return Experiment(
        label=f"{config.image_size} px, {batch} pairs",
        sides=(
            Side("hf_ssl", "bf16", simclr_step(ours, views, "bf16")),
            Side("hf_ssl", "fp32", simclr_step(ours, views, "fp32")),
            Side("lightly style", "fp32", simclr_step(peer, views, "fp32")),
        ),
        comparisons=(
            Comparison("hf_ssl bf16", "lightly style fp32", goal=goal, stretch=stretch),
            Comparison("hf_ssl fp32", "lightly style fp32"),
        ),
        check=lambda: check_simclr(ours, peer, views),
        images=batch,
    )


def _simclr(options: Options) -> Iterator[Experiment]:
    require_package("lightly")
    for size, goal in ((224, 2.2), (64, 2.0)):
        yield simclr_experiment(SimCLRConfig(image_size=size), SIMCLR_BATCHES[size], goal, stretch=2.6)


ROWS = (
    Row("C8", "step", "MAE ViT-B at 224 px, forward + backward", _mae),
    Row("C9", "step", "MAE ViT-B at 224 px, whole step with AdamW", _mae_with_optimizer),
    Row("C10", "step", "SimCLR ResNet-50, forward + backward", _simclr),
)
