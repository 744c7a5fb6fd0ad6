"""8 bit views equal torchvision's operations, and the device's views with the same parameters, to their rounding.

Tolerances are in levels of 255. A level is what rounding costs; hue turns in HSV at 8 bit, where Pillow is up to 17
levels away from torchvision's floating point, and we up to 12.
"""

import dataclasses

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as F

from hf_ssl.augment import HostViews, ViewPolicy, center_view, make_views, normalize_views, render_view, sample_view
from hf_ssl.augment.host.rendering import render_view as render_on_host

UNCHANGED = {"mean": [0.0] * 3, "std": [1.0] * 3}
ADJUST = {
    "brightness": (F.adjust_brightness, 1),
    "contrast": (F.adjust_contrast, 1),
    "saturation": (F.adjust_saturation, 1),
    "hue": (F.adjust_hue, 12),
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(count, height, width=None, seed=0):
    """Smooth colours with noise on them: all hues, all saturations, both ends of the range. (B, 3, H, W)"""
    coarse = torch.rand(count, 3, 7, 7, generator=seeded(seed)) * 1.4 - 0.2
    smooth = F.resize(coarse, [height, width or height], antialias=True).clamp(0, 1) * 255
    return (smooth + torch.randn(smooth.shape, generator=seeded(seed))).round().clamp(0, 255).to(torch.uint8)


def sides(images):
    return torch.tensor([images.shape[-2:]] * len(images))


def on_host(images, parameters, side):
    out = np.empty((len(images), side, side, 3), np.uint8)
    render_on_host([np.ascontiguousarray(image.permute(1, 2, 0).numpy()) for image in images], parameters, out)
    return torch.from_numpy(out).permute(0, 3, 1, 2)


def levels_apart(views, reference):
    """Absolute differences to a reference in [0, 1]."""
    return (views.double() - 255 * reference.double()).abs()


def whole(images, **changes):
    return dataclasses.replace(center_view(sides(images), 1.0), **changes)


@pytest.mark.parametrize("side, output_size", [(32, 32), (48, 20), (20, 48), (64, 7), (200, 112)])
def test_crops_equal_resized_crop(side, output_size):
    images = pictures(24, side)
    policy = ViewPolicy(crop_scale=(0.01, 1), crop_ratio=(0.3, 3), jitter_prob=0, grayscale_prob=0, blur_prob=0)
    parameters = sample_view(policy, sides(images), seeded())
    assert 0 < parameters.flip.sum() < 24
    for view, image, box, flip in zip(
        on_host(images, parameters, output_size), images, parameters.boxes, parameters.flip, strict=True
    ):
        reference = F.resized_crop(image / 255, *box.int().tolist(), [output_size, output_size], antialias=True)
        assert levels_apart(view, F.horizontal_flip(reference) if flip else reference).max() < 1.1


@pytest.mark.parametrize("side", [40, 130])
def test_boxes_keep_their_geometry_in_a_reduced_picture(side):
    originals = pictures(16, 240, 360)
    reduced = F.resize(originals, [100, 100], antialias=True)
    policy = ViewPolicy(crop_scale=(0.3, 1), jitter_prob=0, grayscale_prob=0, blur_prob=0)
    parameters = sample_view(policy, sides(originals), seeded())
    views = on_host(reduced, parameters, side)
    reference = render_view(reduced, parameters, side, **UNCHANGED)
    apart = levels_apart(views, reference)
    # The device weighs the pixels on the box's edges by their parts inside, the host whole.
    assert apart.mean() < 1
    margin = side // 20
    assert apart[:, :, margin:-margin, margin:-margin].max() < 2
    assert levels_apart(on_host(originals, parameters, side), reference).mean() < 3


@pytest.mark.parametrize("operation", ADJUST)
@pytest.mark.parametrize("strength", [0.0, 0.3, 0.8, 1.8])
def test_jitter_operations_equal_torchvisions(operation, strength):
    images = pictures(6, 24)
    factors = strength * torch.linspace(0.9, 1.1, 6)
    if operation == "hue":
        factors = (factors - 1) / 2
    jitter = torch.arange(6) % 3 != 0
    adjust, tolerance = ADJUST[operation]
    views = on_host(images, whole(images, jitter=jitter, **{operation: factors}), 24)
    for view, image, factor, on in zip(views, images, factors, jitter, strict=True):
        reference = adjust(image / 255, factor.item()) if on else image / 255
        apart = levels_apart(view, reference)
        assert apart.max() <= (tolerance if on else 1e-4)
        assert apart.mean() < 1


def test_greyscale_and_solarise_equal_torchvisions():
    images = pictures(2, 24)
    on = torch.ones(2, dtype=torch.bool)
    gray = on_host(images, whole(images, grayscale=on), 24)
    assert levels_apart(gray, F.rgb_to_grayscale(images / 255, 3)).max() <= 1
    solarized = on_host(images, whole(images, solarize=on, solarize_threshold=100), 24)
    assert torch.equal(solarized, F.solarize(images, 100))


@pytest.mark.parametrize("side, fraction", [(32, 0.1), (48, 0.5), (100, 0.1)])
def test_blur_equals_torchvisions(side, fraction):
    images = pictures(6, side)
    sigmas = torch.linspace(0.1, 2, 6)
    blur = torch.ones(6, dtype=torch.bool)
    parameters = whole(images, blur=blur, blur_sigma=sigmas, blur_kernel_fraction=fraction)
    kernel = 2 * max(1, int(fraction * side) // 2) + 1
    for view, image, sigma in zip(on_host(images, parameters, side), images, sigmas, strict=True):
        reference = F.gaussian_blur(image / 255, [kernel, kernel], [sigma.item()] * 2)
        assert levels_apart(view, reference).max() < 1.5


@pytest.mark.parametrize("side, output_size", [(64, 64), (96, 64), (60, 100)])
def test_the_same_parameters_give_the_devices_views(side, output_size):
    images = pictures(40, side)
    parameters = sample_view(ViewPolicy(solarize_prob=0.2), sides(images), seeded(3))
    views = on_host(images, parameters, output_size)
    # A pixel that rounding takes over the threshold is inverted.
    kept = ~parameters.solarize
    apart = levels_apart(views[kept], render_view(images, parameters, output_size, **UNCHANGED)[kept])
    assert apart.mean() < 0.7
    assert (apart > 12).double().mean() < 1e-3


def test_each_image_is_rendered_alone():
    images = pictures(30, 32)
    parameters = sample_view(ViewPolicy(solarize_prob=0.5), sides(images), seeded())
    together = on_host(images, parameters, 100)
    for row in (0, 11, 29):
        values = {field.name: getattr(parameters, field.name) for field in dataclasses.fields(parameters)}
        alone = {
            name: value[row : row + 1] if isinstance(value, torch.Tensor) else value for name, value in values.items()
        }
        assert torch.equal(on_host(images[row : row + 1], type(parameters)(**alone), 100)[0], together[row])


@pytest.mark.parametrize("height, width", [(1, 5000), (5000, 1), (1, 1), (3, 2)])
def test_a_flat_image_stays_flat_however_extreme_its_crop(height, width):
    images = torch.full((20, 3, height, width), 77, dtype=torch.uint8)
    policy = ViewPolicy(jitter_prob=0, grayscale_prob=0, blur_prob=1)
    assert (on_host(images, sample_view(policy, sides(images), seeded()), 16) == 77).all()


def test_a_sliver_of_a_squeezed_image_is_still_a_crop():
    parameters = sample_view(ViewPolicy(jitter_prob=0, blur_prob=0), torch.tensor([[1, 50_000_000]] * 20), seeded())
    assert (on_host(torch.full((20, 3, 32, 32), 77, dtype=torch.uint8), parameters, 16) == 77).all()


def test_host_views_are_the_devices_with_the_same_generator_whatever_the_pieces():
    images = pictures(12, 32)
    policies = [ViewPolicy(), ViewPolicy(blur_prob=0, crop_scale=(0.5, 1))]
    rows = [np.ascontiguousarray(image.permute(1, 2, 0).numpy()) for image in images]
    views, render_rows = HostViews(policies, 24, seeded).start(7, 12)
    for piece in (slice(5, 12), slice(0, 5)):
        render_rows(rows[piece], sides(images)[piece], piece)
    assert views.shape == (12, 2, 24, 24, 3) and views.dtype == torch.uint8
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
    on_device = make_views(images, sides(images), policies, seeded(7), 24, mean, std)
    normalized = normalize_views(views, mean, std)
    assert normalized.shape == on_device.shape and normalized.dtype == torch.float32
    assert (normalized - on_device).abs().mean() < 0.7 / 255 / 0.2


def test_normalising_equals_torchvisions():
    images = pictures(4, 8)
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
    views = images.permute(0, 2, 3, 1)[:, None]
    reference = F.normalize(images / 255, mean, std)
    torch.testing.assert_close(normalize_views(views, mean, std), reference, rtol=0, atol=1e-5)
    both = normalize_views(torch.cat([views, views], dim=1), mean, std)
    torch.testing.assert_close(both, torch.stack([reference, reference], dim=1), rtol=0, atol=1e-5)


def test_no_policy_is_refused():
    with pytest.raises(ValueError, match="policies is empty"):
        HostViews([], 8, seeded)
