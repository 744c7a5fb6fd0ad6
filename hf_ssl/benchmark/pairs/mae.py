"""Our MAE and transformers' ViTMAE."""

from collections.abc import Callable, Mapping

import torch
from torch import nn
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from hf_ssl import MAEConfig, MAEForPreTraining
from hf_ssl.benchmark.checks import check_close, check_gradients, join
from hf_ssl.benchmark.measuring import NotMeasuredError
from hf_ssl.benchmark.pairs.common import MIXED_PRECISION, autocast, gradients
from hf_ssl.models.encoder import choose_attention


def mae_pair(config: MAEConfig, device: str = "cpu") -> tuple[MAEForPreTraining, ViTMAEForPreTraining]:
    """Our MAE and transformers', with the same weights.

    The attention is each side's default: ours as `hf-ssl pretrain` chooses it by device and precision, which
    `mae_step` does too; theirs "sdpa".
    """
    torch.manual_seed(0)
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
            choose_attention(model, images.device, MIXED_PRECISION[precision])
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
        choose_attention(model, images.device, MIXED_PRECISION[precision])
        with autocast(precision, images.device.type):
            loss = model(images, noise=noise).loss
        loss.backward()
        if optimizer is None:
            model.zero_grad()
        else:
            optimizer.step()
            optimizer.zero_grad()

    return call
