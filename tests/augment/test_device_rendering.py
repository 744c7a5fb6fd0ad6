"""Every operation equals torchvision's, image by image, with the same parameters."""

import contextlib
import dataclasses

import pytest
import torch
import torchvision.transforms.v2.functional as F

from hf_ssl.augment import ViewPolicy, center_view, make_views, render_view, sample_view

UNCHANGED = {"mean": [0.0] * 3, "std": [1.0] * 3}
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
ADJUST = {
    "brightness": F.adjust_brightness,
    "contrast": F.adjust_contrast,
    "saturation": F.adjust_saturation,
    "hue": F.adjust_hue,
}
OPERATIONS = list(ADJUST)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(count, side, seed=0):
    """Noise with pixels that are black, white, grey and saturated: the corners of colour conversions."""
    images = torch.randint(0, 256, (count, 3, side, side), generator=seeded(seed), dtype=torch.uint8)
    images[:, :, 0] = images[:, :1, 0]
    images[:, :, 1, ::2] = 0
    images[:, :, 1, 1::2] = 255
    images[:, 0, 2] = 255
    images[:, 1, 2] = 0
    return images


def smooth(height, width):
    """A picture of low frequencies, different along each axis and in each channel."""
    y, x = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)[None, :]
    channels = [torch.sin(3 * y + 5 * x), torch.cos(6 * y - 2 * x), torch.sin(4 * x) * torch.cos(5 * y)]
    return (torch.stack(channels) * 127 + 128).clamp(0, 255)


def square(images):
    return torch.tensor([images.shape[-2:]] * len(images))


def whole(images, **changes):
    """Parameters that leave the images as they are, but for the changes."""
    return dataclasses.replace(center_view(square(images), 1.0), **changes)


def some(count):
    return torch.arange(count) % 3 != 0


def assert_close(views, reference, tolerance=1e-5):
    torch.testing.assert_close(views, torch.stack(list(reference)), rtol=0, atol=tolerance)


def test_the_whole_image_comes_out_normalised():
    images = noise(4, 16)
    views = render_view(images, whole(images), 16, MEAN, STD)
    assert views.dtype == torch.float32
    assert_close(views, F.normalize(images / 255, MEAN, STD))


@pytest.mark.parametrize("side, output_size", [(32, 32), (48, 20), (20, 48), (64, 7), (200, 112)])
def test_crops_equal_resized_crop(side, output_size):
    images = noise(24, side)
    policy = ViewPolicy(crop_scale=(0.01, 1), crop_ratio=(0.3, 3), jitter_prob=0, grayscale_prob=0, blur_prob=0)
    parameters = sample_view(policy, square(images), seeded())

    def reference(image, box, flip):
        view = F.resized_crop(image / 255, *box.int().tolist(), [output_size, output_size], antialias=True)
        return F.horizontal_flip(view) if flip else view

    views = render_view(images, parameters, output_size, **UNCHANGED)
    assert 0 < parameters.flip.sum() < 24
    # Positions around 200 px are known to 1.5e-5 px in float32, torchvision's as well.
    assert_close(views, map(reference, images, parameters.boxes, parameters.flip), tolerance=1e-7 * max(side, 100))


def test_a_crop_sees_nothing_outside_its_box():
    images = noise(8, 32)
    parameters = sample_view(ViewPolicy(crop_scale=(0.1, 0.3)), square(images), seeded())
    changed = torch.full_like(images, 255)
    for image, original, box in zip(changed, images, parameters.boxes.int().tolist(), strict=True):
        top, left, height, width = box
        image[:, top : top + height, left : left + width] = original[:, top : top + height, left : left + width]
    views = [render_view(batch, parameters, 16, **UNCHANGED) for batch in (images, changed)]
    assert torch.equal(*views)


@pytest.mark.parametrize("height, width", [(200, 300), (400, 150)])
def test_boxes_keep_their_geometry_when_the_stored_square_does_not(height, width):
    original = smooth(height, width)
    stored = F.resize(original, [128, 128], antialias=True).round().to(torch.uint8).expand(16, -1, -1, -1)
    policy = ViewPolicy(jitter_prob=0, grayscale_prob=0, blur_prob=0, flip_prob=0)
    parameters = sample_view(policy, torch.tensor([[height, width]] * 16), seeded())
    views = render_view(stored, parameters, 48, **UNCHANGED)
    boxes = parameters.boxes.int().tolist()
    reference = (F.resized_crop(original / 255, *box, [48, 48], antialias=True) for box in boxes)
    assert_close(views, reference, tolerance=0.02)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("strength", [0.0, 0.3, 0.8, 1.8])
def test_jitter_operations_equal_torchvisions(operation, strength):
    images = noise(6, 24)
    factors = strength * torch.linspace(0.9, 1.1, 6)
    if operation == "hue":
        factors = (factors - 1) / 2
    jitter = some(6)
    parameters = whole(images, jitter=jitter, **{operation: factors})

    def reference(image, factor, on):
        return ADJUST[operation](image / 255, factor.item()) if on else image / 255

    views = render_view(images, parameters, 24, **UNCHANGED)
    assert_close(views, map(reference, images, factors, jitter))


def test_jitter_follows_each_images_own_order():
    orders = torch.tensor(
        [[a, b, c, 6 - a - b - c] for a in range(4) for b in range(4) for c in range(4) if len({a, b, c}) == 3]
    )
    images = noise(24, 20)
    factors = {name: torch.linspace(0.4, 1.7, 24).roll(shift) for shift, name in enumerate(OPERATIONS[:3])}
    factors["hue"] = torch.linspace(-0.2, 0.2, 24)
    parameters = whole(images, jitter=torch.ones(24, dtype=torch.bool), jitter_order=orders, **factors)

    def reference(row):
        view = images[row] / 255
        for operation in orders[row].tolist():
            name = OPERATIONS[operation]
            view = ADJUST[name](view, factors[name][row].item())
        return view

    views = render_view(images, parameters, 20, **UNCHANGED)
    assert_close(views, map(reference, range(24)))


def test_greyscale_equals_torchvisions():
    images = noise(6, 24)
    views = render_view(images, whole(images, grayscale=some(6)), 24, **UNCHANGED)
    reference = (
        F.rgb_to_grayscale(image / 255, num_output_channels=3) if on else image / 255
        for image, on in zip(images, some(6), strict=True)
    )
    assert_close(views, reference)


@pytest.mark.parametrize(
    "side, fraction, kernel", [(64, 0.1, 7), (24, 0.1, 3), (30, 0.5, 15), (9, 1.0, 9), (112, 0.1, 11)]
)
def test_blur_equals_torchvisions(side, fraction, kernel):
    images = noise(6, side)
    sigmas = torch.tensor([0.1, 0.3, 0.7, 1.1, 1.6, 2.0])
    blurred = whole(images, blur=some(6), blur_sigma=sigmas, blur_kernel_fraction=fraction)
    views = render_view(images, blurred, side, **UNCHANGED)
    reference = (
        F.gaussian_blur(image / 255, [kernel, kernel], [sigma.item()] * 2) if on else image / 255
        for image, sigma, on in zip(images, sigmas, some(6), strict=True)
    )
    assert_close(views, reference)


@pytest.mark.parametrize("threshold", [0, 64.5, 127.5, 255])
def test_solarise_equals_torchvisions(threshold):
    images = noise(6, 24)
    views = render_view(images, whole(images, solarize=some(6), solarize_threshold=threshold), 24, **UNCHANGED)
    reference = (
        F.solarize(image / 255, threshold / 255) if on else image / 255
        for image, on in zip(images, some(6), strict=True)
    )
    assert_close(views, reference)


def chain(image, parameters, row, output_size):
    """One image through torchvision, in the order of SimCLR and BYOL."""
    box = parameters.boxes[row].int().tolist()
    view = F.resized_crop(image / 255, *box, [output_size, output_size], antialias=True)
    if parameters.flip[row]:
        view = F.horizontal_flip(view)
    if parameters.jitter[row]:
        for operation in parameters.jitter_order[row].tolist():
            name = OPERATIONS[operation]
            view = ADJUST[name](view, getattr(parameters, name)[row].item())
    if parameters.grayscale[row]:
        view = F.rgb_to_grayscale(view, num_output_channels=3)
    if parameters.blur[row]:
        view = F.gaussian_blur(view, [3, 3], [parameters.blur_sigma[row].item()] * 2)
    if parameters.solarize[row]:
        view = F.solarize(view, parameters.solarize_threshold / 255)
    return F.normalize(view, MEAN, STD)


def test_operations_are_chained_in_the_order_of_simclr():
    images = noise(64, 32)
    parameters = sample_view(ViewPolicy(solarize_prob=0.4), square(images), seeded())
    views = render_view(images, parameters, 28, MEAN, STD)
    reference = torch.stack([chain(image, parameters, row, 28) for row, image in enumerate(images)])
    # A value within rounding of the threshold may fall on either side of it; all others must agree.
    assert ((views - reference).abs() > 1e-4).float().mean() < 1e-4


@pytest.mark.parametrize("height, width", [(64, 64), (64, 96), (90, 60)])
def test_the_center_view_is_resize_and_center_crop(height, width):
    original = smooth(height, width)
    stored = F.resize(original, [64, 64], antialias=True).round().to(torch.uint8)[None]
    views = render_view(stored, center_view(torch.tensor([[height, width]]), 42 / 48), 42, **UNCHANGED)
    reference = F.center_crop(F.resize(original / 255, [48], antialias=True), [42, 42])
    torch.testing.assert_close(views[0], reference, rtol=0, atol=0.02)
    if height == width == 64:
        # The crop comes first here, so its outermost samples miss the neighbours beyond the box.
        reference = F.center_crop(F.resize(stored[0] / 255, [48], antialias=True), [42, 42])
        torch.testing.assert_close(views[0, :, 2:-2, 2:-2], reference[:, 2:-2, 2:-2], rtol=0, atol=1e-5)


@pytest.mark.parametrize("height, width", [(1, 5000), (5000, 1), (1, 1), (3, 100_000), (2, 3)])
@pytest.mark.parametrize("output_size", [2, 32])
def test_a_flat_image_stays_flat_however_extreme_its_crop(height, width, output_size):
    images = torch.full((32, 3, 24, 24), 77, dtype=torch.uint8)
    sizes = torch.tensor([[height, width]] * 32)
    top, left = (torch.linspace(0, side - 1, 32).floor() for side in (height, width))
    one_pixel = torch.stack([top, left, torch.ones(32), torch.ones(32)], dim=1).double()
    policy = ViewPolicy(jitter_prob=0)
    drawn = sample_view(policy, sizes, seeded())
    for parameters in (drawn, dataclasses.replace(drawn, boxes=one_pixel), center_view(sizes, 0.01)):
        views = render_view(images, parameters, output_size, **UNCHANGED)
        torch.testing.assert_close(views, torch.full_like(views, 77 / 255), rtol=0, atol=1e-4)


def test_extreme_views_are_finite():
    images = noise(64, 24)
    policy = ViewPolicy(brightness=5, contrast=5, saturation=5, hue=0.5, jitter_prob=1, blur_sigma=(1e-3, 50))
    parameters = sample_view(dataclasses.replace(policy, blur_prob=1.0), torch.tensor([[1, 5000]] * 64), seeded())
    assert render_view(images, parameters, 32, MEAN, STD).isfinite().all()


def test_each_image_is_rendered_alone():
    images = noise(16, 32)
    parameters = sample_view(ViewPolicy(solarize_prob=0.3), square(images), seeded())
    together = render_view(images, parameters, 24, MEAN, STD)
    for row in range(16):
        fields = {
            field.name: value[row : row + 1]
            for field in dataclasses.fields(parameters)
            if isinstance(value := getattr(parameters, field.name), torch.Tensor)
        }
        alone = render_view(images[row : row + 1], dataclasses.replace(parameters, **fields), 24, MEAN, STD)
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-5)


def test_autocast_and_gradients_change_nothing():
    images = noise(8, 32)
    kept = images.clone()
    parameters = sample_view(ViewPolicy(), square(images), seeded())
    plain = render_view(images, parameters, 24, MEAN, STD)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(render_view(images, parameters, 24, MEAN, STD), plain)
    assert not plain.requires_grad
    assert torch.equal(images, kept)


def test_rendering_never_reads_from_the_device(monkeypatch):
    """Tensors on the meta device have no values: asking for one, a synchronisation on a GPU, raises."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # it knows no meta device
    images = noise(32, 32)
    parameters = sample_view(ViewPolicy(solarize_prob=0.5), square(images), seeded())
    assert render_view(images.to("meta"), parameters, 24, MEAN, STD).shape == (32, 3, 24, 24)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_same_seed_gives_the_same_views_on_a_gpu():
    images = noise(64, 64)
    views = [
        make_views(batch, square(images), [ViewPolicy()] * 2, seeded(), 48, MEAN, STD).cpu()
        for batch in (images, images.cuda())
    ]
    torch.testing.assert_close(*views, rtol=0, atol=1e-3)


def test_make_views_renders_one_view_per_policy_from_one_generator():
    images = noise(6, 32)
    policies = [ViewPolicy(), ViewPolicy(blur_prob=0, solarize_prob=1)]
    views = make_views(images, square(images), policies, seeded(), 24, MEAN, STD)
    assert views.shape == (6, 2, 3, 24, 24)
    generator = seeded()
    for column, policy in enumerate(policies):
        expected = render_view(images, sample_view(policy, square(images), generator), 24, MEAN, STD)
        assert torch.equal(views[:, column], expected)
    single = make_views(images, square(images), policies[:1], seeded(), 24, MEAN, STD)
    assert torch.equal(single, views[:, 0])


def test_two_views_of_one_policy_differ():
    images = noise(6, 32)
    views = make_views(images, square(images), [ViewPolicy()] * 2, seeded(), 24, MEAN, STD)
    assert not any(torch.equal(first, second) for first, second in views)


@pytest.mark.parametrize("images", [torch.rand(2, 3, 8, 8), noise(2, 8)[0], noise(2, 8)[:, :1], noise(2, 8)[..., :4]])
def test_images_of_another_form_are_refused(images):
    with pytest.raises(ValueError, match="uint8 of shape"):
        render_view(images, center_view(torch.ones(2, 2).long(), 1.0), 8, MEAN, STD)


def test_parameters_of_another_batch_are_refused():
    with pytest.raises(ValueError, match="3 images but parameters for 2"):
        render_view(noise(3, 8), center_view(torch.ones(2, 2).long(), 1.0), 8, MEAN, STD)


def test_no_policy_is_refused():
    with pytest.raises(ValueError, match="policies is empty"):
        make_views(noise(2, 8), torch.ones(2, 2).long(), [], seeded(), 8, MEAN, STD)
