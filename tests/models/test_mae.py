"""MAE's own properties, each where implementations are known to go wrong."""

import pytest
import torch
from safetensors.torch import save_file
from tiny_models import TINY

from hf_ssl import MAEConfig, MAEForPreTraining, MAEModel
from hf_ssl.models.mae.patches import patchify, sincos_position_embedding, unpatchify


@pytest.fixture
def images():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=["transformer", "mlp"])
def model(request):
    torch.manual_seed(0)
    return MAEForPreTraining(TINY["mae"](decoder_type=request.param, decoder_num_layers=2)).eval()


def test_patchify_is_row_by_row_with_channels_last(images):
    patches = patchify(images, 8)
    assert patches.shape == (3, 16, 192)
    torch.testing.assert_close(patches[1, 6], images[1, :, 8:16, 16:24].permute(1, 2, 0).flatten())
    torch.testing.assert_close(unpatchify(patches, 8), images)


def test_positions_encode_column_then_row():
    """The definition, entry by entry: sin and cos of position / 10000^(2i/d) for d = half the width."""
    width, side = 16, 3
    positions = sincos_position_embedding(width, side**2)
    assert positions.shape == (1, 1 + side**2, width)
    assert positions[0, 0].abs().sum() == 0
    for row in range(side):
        for column in range(side):
            expected = []
            for coordinate in (column, row):
                angles = [coordinate / 10000 ** (2 * i / (width // 2)) for i in range(width // 4)]
                expected += [torch.tensor(angle).sin() for angle in angles]
                expected += [torch.tensor(angle).cos() for angle in angles]
            torch.testing.assert_close(positions[0, 1 + row * side + column], torch.stack(expected))


def test_noise_fixes_the_mask(model, images):
    noise = torch.rand(3, 16)
    first, second = model(images, noise=noise), model(images, noise=noise)
    assert torch.equal(first.logits, second.logits) and torch.equal(first.loss, second.loss)
    visible = noise.argsort(dim=1)[:, :4]
    assert torch.equal(first.mask.gather(1, visible), torch.zeros(3, 4))
    assert first.mask.sum() == 3 * 12
    assert first.logits.shape == (3, 16, 192)


def test_visible_patches_are_embedded_as_the_convolution_embeds_them(model, images):
    visible = torch.rand(3, 16).argsort(dim=1)[:, :4]
    everything = model.patch_embed(images) + model.pos_embed[:, 1:]
    expected = torch.stack([tokens[which] for tokens, which in zip(everything, visible, strict=True)])
    torch.testing.assert_close(model.embed_visible(patchify(images, 8), visible), expected, rtol=1e-4, atol=1e-5)


def test_the_encoder_sees_only_visible_patches(model, images):
    noise = torch.rand(3, 16)
    mask = model(images, noise=noise).mask
    changed = patchify(images, 8) + 5 * torch.randn(3, 16, 192) * mask[..., None]
    tokens = []
    model.norm.register_forward_hook(lambda module, inputs, output: tokens.append(output))
    first = model(images, noise=noise).logits
    second = model(unpatchify(changed, 8), noise=noise).logits
    assert tokens[0].shape[1] == 1 + 4
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)


def test_the_loss_is_the_mean_squared_error_of_masked_patches(images):
    for norm_pix_loss in (False, True):
        model = MAEForPreTraining(TINY["mae"](norm_pix_loss=norm_pix_loss)).eval()
        output = model(images)
        total, count = 0.0, 0
        for image in range(3):
            for patch in range(16):
                if output.mask[image, patch] == 1:
                    target = patchify(images, 8)[image, patch].double()
                    if norm_pix_loss:
                        target = (target - target.mean()) / (target.var() + 1e-6).sqrt()
                    total += ((output.logits[image, patch].double() - target) ** 2).mean()
                    count += 1
        torch.testing.assert_close(output.loss.double(), total / count, rtol=1e-5, atol=1e-6)


def test_predictions_differ_between_masked_positions_and_between_images(model, images):
    """A zeroed mask token or position embedding would give every masked patch of an image one prediction."""
    noise = torch.rand(1, 16).expand(3, -1)
    output = model(images, noise=noise)
    masked = output.logits[output.mask.bool()].view(3, 12, 192)
    assert masked.std(dim=1).mean() > 0.01
    assert masked.std(dim=0).mean() > 0.001


def test_every_trained_weight_has_a_gradient(model, images):
    model.train()
    model(images).loss.backward()
    without = [
        name for name, w in model.named_parameters() if w.requires_grad and (w.grad is None or not w.grad.any())
    ]
    assert without == []
    frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    assert frozen == {"pos_embed", "decoder_pos_embed"}


def test_every_image_has_its_own_mask(model):
    torch.manual_seed(0)
    masks = model(torch.randn(8, 3, 32, 32)).mask
    assert len({tuple(mask.tolist()) for mask in masks}) > 1


def test_tokens_come_in_image_order(images):
    """Swapping two patches and their positions swaps their tokens: nothing shuffles."""
    model = MAEModel(TINY["mae"]()).eval()
    tokens = model(images).last_hidden_state
    order = torch.arange(16)
    order[[2, 9]] = order[[9, 2]]
    swapped = unpatchify(patchify(images, 8)[:, order], 8)
    with torch.no_grad():
        model.pos_embed[:, 1:] = model.pos_embed[:, 1:][:, order]
    torch.testing.assert_close(model(swapped).last_hidden_state[:, 1:], tokens[:, 1:][:, order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_pooling(images, pooling):
    model = MAEModel(TINY["mae"](pooling=pooling)).eval()
    output = model(images)
    hidden = output.last_hidden_state
    torch.testing.assert_close(output.pooler_output, hidden[:, 1:].mean(1) if pooling == "mean" else hidden[:, 0])
    torch.testing.assert_close(model.to_timm()(images), output.pooler_output, rtol=0, atol=1e-5)


def official_state_dict(width: int, depth: int, decoder_width: int, decoder_depth: int, patches: int, patch: int):
    """Names and shapes of facebookresearch/mae's `MaskedAutoencoderViT`, spelt out from `models_mae.py`."""
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + patches, width),
        "mask_token": (1, 1, decoder_width),
        "decoder_pos_embed": (1, 1 + patches, decoder_width),
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
        "decoder_embed.weight": (decoder_width, width),
        "decoder_embed.bias": (decoder_width,),
        "decoder_norm.weight": (decoder_width,),
        "decoder_norm.bias": (decoder_width,),
        "decoder_pred.weight": (patch * patch * 3, decoder_width),
        "decoder_pred.bias": (patch * patch * 3,),
    }
    for prefix, size, count in (("blocks", width, depth), ("decoder_blocks", decoder_width, decoder_depth)):
        for block in range(count):
            for name, out, into in (
                ("attn.qkv", 3 * size, size),
                ("attn.proj", size, size),
                ("mlp.fc1", 4 * size, size),
                ("mlp.fc2", size, 4 * size),
            ):
                shapes[f"{prefix}.{block}.{name}.weight"] = (out, into)
                shapes[f"{prefix}.{block}.{name}.bias"] = (out,)
            for name in ("norm1", "norm2"):
                shapes[f"{prefix}.{block}.{name}.weight"] = (size,)
                shapes[f"{prefix}.{block}.{name}.bias"] = (size,)
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def test_an_official_checkpoint_loads_by_name(tmp_path):
    official = official_state_dict(width=48, depth=2, decoder_width=32, decoder_depth=1, patches=16, patch=8)
    TINY["mae"]().save_pretrained(tmp_path)
    save_file(official, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded, info = MAEForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert all(torch.equal(weight, official[name]) for name, weight in loaded.state_dict().items())


def test_initialisation_follows_the_official_code():
    torch.manual_seed(0)
    model = MAEForPreTraining(TINY["mae"](backbone_kwargs={"depth": 1, "embed_dim": 192, "num_heads": 3}))
    for weight in (model.blocks[0].mlp.fc1.weight, model.decoder_embed.weight, model.decoder_pred.weight):
        assert weight.abs().max() <= (6 / sum(weight.shape)) ** 0.5
        assert weight.std().item() == pytest.approx((2 / sum(weight.shape)) ** 0.5, rel=0.05)
    flat = model.patch_embed.proj.weight.flatten(1)
    assert flat.std().item() == pytest.approx((2 / sum(flat.shape)) ** 0.5, rel=0.05)
    assert model.cls_token.std().item() == pytest.approx(0.02, rel=0.3)
    assert model.blocks[0].norm1.eps == model.decoder_blocks[0].norm1.eps == model.decoder_norm.eps == 1e-6
    assert torch.equal(model.pos_embed, sincos_position_embedding(192, 16))


def test_the_picture_shows_the_input_the_mask_and_the_prediction(model):
    mean, std = (
        torch.tensor(model.config.image_mean)[:, None, None],
        torch.tensor(model.config.image_std)[:, None, None],
    )
    pixels = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    noise = torch.rand(3, 16)
    pictures = model.illustrate((pixels - mean) / std, noise=noise)
    assert pictures.shape == (3, len(model.illustration_columns), 3, 32, 32)
    torch.testing.assert_close(pictures[:, 0], pixels, rtol=0, atol=1e-5)
    mask = model((pixels - mean) / std, noise=noise).mask.bool()
    original, masked, reconstructed = (patchify(pictures[:, column], 8) for column in range(3))
    torch.testing.assert_close(masked[~mask], original[~mask])
    torch.testing.assert_close(reconstructed[~mask], original[~mask])
    grey = patchify(mean.expand(1, 3, 32, 32), 8)[0, 0]
    torch.testing.assert_close(masked[mask], grey.expand(int(mask.sum()), -1), rtol=0, atol=1e-5)
    assert (reconstructed[mask] - masked[mask]).abs().mean() > 0.01


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": 30}, "choose image_size 24 or a patch_size that divides 30"),
        ({"mask_ratio": 0.0}, r"inside \(0, 1\)"),
        ({"mask_ratio": 1.0}, r"inside \(0, 1\)"),
        ({"mask_ratio": 0.99}, "at least one patch visible"),
        ({"decoder_type": "cnn"}, "'transformer' or 'mlp'"),
        ({"decoder_hidden_size": 30}, "multiple of 4"),
        ({"decoder_num_heads": 3}, "divides it"),
        ({"decoder_num_layers": 0}, "at least 1"),
        ({"pooling": "max"}, "'mean' or 'cls'"),
    ],
)
def test_values_that_are_not_allowed_are_refused_with_the_fix(fields, message):
    with pytest.raises(ValueError, match=message):
        TINY["mae"](**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"backbone": "vit_base_patch14_reg4_dinov2", "patch_size": 14},
        # Its convolutions would show the encoder masked patches.
        {"backbone": "vit_tiny_r_s16_p8_224", "patch_size": 8, "image_size": 256},
    ],
)
def test_a_backbone_that_is_no_plain_vit_is_refused(fields):
    with pytest.raises(ValueError, match="not a plain ViT"):
        MAEForPreTraining(MAEConfig(**fields))


@pytest.mark.parametrize("shape", [(2, 3, 16, 64), (2, 3, 64, 64), (2, 1, 32, 32)])
def test_images_of_another_size_are_refused(model, shape):
    with pytest.raises(ValueError, match=r"this model takes \(batch, 3, 32, 32\)"):
        model(torch.randn(shape))


def test_positions_stay_fixed_in_a_model_that_was_loaded(tmp_path):
    config = TINY["mae"]()
    fresh = MAEForPreTraining(config)
    fresh.save_pretrained(tmp_path)
    for model_class in (MAEForPreTraining, MAEModel):
        trained = {name: parameter.requires_grad for name, parameter in model_class(config).named_parameters()}
        loaded = model_class.from_pretrained(tmp_path)
        assert {name: parameter.requires_grad for name, parameter in loaded.named_parameters()} == trained
        assert not trained["pos_embed"]
