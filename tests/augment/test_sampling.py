import dataclasses
import math

import pytest
import torch
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import ColorJitter

from hf_ssl.augment import ViewParameters, ViewPolicy, center_view, sample_view

TENSORS = [field.name for field in dataclasses.fields(ViewParameters) if field.type == "Tensor"]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def sizes_of(height, width, count):
    return torch.tensor([[height, width]]).expand(count, 2)


def assert_same_moments(ours, theirs):
    """Means and mean squares agree within 5 standard errors of their difference."""
    for power in (1, 2):
        a, b = ours.double() ** power, theirs.double() ** power
        error = math.sqrt(a.var() / len(a) + b.var() / len(b))
        assert abs(a.mean() - b.mean()) <= 5 * error + 1e-12


@pytest.mark.parametrize("height, width", [(375, 500), (64, 64), (100, 260), (7, 9)])
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.6, 1.0)])
def test_crops_are_distributed_as_torchvisions(height, width, scale):
    policy = ViewPolicy(crop_scale=scale)
    ours = sample_view(policy, sizes_of(height, width, 20_000), seeded()).boxes
    torch.manual_seed(0)
    image = torch.empty(1, height, width)
    theirs = torch.tensor(
        [RandomResizedCrop.get_params(image, list(scale), list(policy.crop_ratio)) for _ in range(3000)]
    )

    def statistics(boxes):
        top, left, box_height, box_width = boxes.double().unbind(1)
        yield box_height * box_width / (height * width)
        yield (box_width / box_height).log()
        yield (top + box_height / 2) / height
        yield (left + box_width / 2) / width
        yield (top == 0).double()
        yield (left + box_width == width).double()

    for a, b in zip(statistics(ours), statistics(theirs), strict=True):
        assert_same_moments(a, b)


def test_crops_are_whole_pixels_inside_their_image():
    sizes = torch.randint(1, 40, (5000, 2), generator=seeded(1))
    top, left, height, width = sample_view(ViewPolicy(), sizes, seeded()).boxes.unbind(1)
    for value in (top, left, height, width):
        assert torch.equal(value, value.round())
    assert (top >= 0).all() and (left >= 0).all() and (height >= 1).all() and (width >= 1).all()
    assert (top + height <= sizes[:, 0]).all() and (left + width <= sizes[:, 1]).all()


@pytest.mark.parametrize("height, width", [(10, 200), (200, 10), (11, 250), (1, 5000), (5000, 1), (7, 100)])
def test_where_no_crop_fits_the_central_one_is_torchvisions(height, width):
    expected = RandomResizedCrop.get_params(torch.empty(1, height, width), [0.5, 1.0], [3 / 4, 4 / 3])
    boxes = sample_view(ViewPolicy(crop_scale=(0.5, 1.0)), sizes_of(height, width, 20), seeded()).boxes
    assert torch.equal(boxes, torch.tensor([expected]).double().expand(20, 4))


def test_jitter_is_distributed_as_torchvisions():
    policy = ViewPolicy(brightness=0.4, contrast=1.5, saturation=0.8, hue=0.2)
    ours = sample_view(policy, sizes_of(32, 32, 20_000), seeded())
    torch.manual_seed(0)
    jitter = ColorJitter(0.4, 1.5, 0.8, 0.2)
    draws = [jitter.make_params([]) for _ in range(3000)]
    for name in ("brightness", "contrast", "saturation", "hue"):
        values = getattr(ours, name)
        theirs = torch.tensor([draw[f"{name}_factor"] for draw in draws])
        assert_same_moments(values, theirs)
        low, high = getattr(jitter, name)
        assert low <= values.min() and values.max() <= high


def test_every_order_of_the_jitter_is_as_likely():
    order = sample_view(ViewPolicy(), sizes_of(32, 32, 24_000), seeded()).jitter_order
    permutations, counts = order.unique(dim=0, return_counts=True)
    assert len(permutations) == 24
    assert torch.equal(permutations.sort(dim=1).values, torch.arange(4).expand(24, 4))
    # 23 degrees of freedom: mean 23, standard deviation 6.8.
    assert ((counts - 1000.0) ** 2 / 1000).sum() < 23 + 5 * math.sqrt(46)


@pytest.mark.parametrize(
    "switch, field",
    [
        ("flip", "flip_prob"),
        ("jitter", "jitter_prob"),
        ("grayscale", "grayscale_prob"),
        ("blur", "blur_prob"),
        ("solarize", "solarize_prob"),
    ],
)
def test_switches_come_on_with_their_probability(switch, field):
    sizes = sizes_of(32, 32, 10_000)
    for probability in (0.0, 0.3, 1.0):
        drawn = getattr(sample_view(ViewPolicy(**{field: probability}), sizes, seeded()), switch).double()
        error = math.sqrt(probability * (1 - probability) / len(drawn))
        assert abs(drawn.mean() - probability) <= 5 * error


def test_switches_are_drawn_independently():
    policy = ViewPolicy(solarize_prob=0.3)
    view = sample_view(policy, sizes_of(32, 32, 20_000), seeded())
    columns = [view.flip, view.jitter, view.grayscale, view.blur, view.solarize]
    columns += [view.boxes[:, 0], view.boxes[:, 3], view.brightness, view.hue, view.blur_sigma]
    correlations = torch.corrcoef(torch.stack([column.double() for column in columns]))
    assert (correlations - torch.eye(len(columns))).abs()[~_crop_pair(len(columns))].max() < 5 / math.sqrt(20_000)


def _crop_pair(size):
    """A box's position and its extent do depend on each other."""
    pair = torch.zeros(size, size, dtype=torch.bool)
    pair[5, 6] = pair[6, 5] = True
    return pair


def test_blur_sigma_is_uniform_in_its_range():
    sigma = sample_view(ViewPolicy(), sizes_of(32, 32, 20_000), seeded()).blur_sigma
    assert sigma.min() >= 0.1 and sigma.max() <= 2.0
    uniform = torch.linspace(0.1, 2.0, 20_001)[:-1] + 0.95 / 20_000
    assert_same_moments(sigma, uniform)


def test_a_seed_determines_every_parameter():
    sizes = torch.randint(20, 400, (64, 2), generator=seeded(3))
    first, again, other = (sample_view(ViewPolicy(), sizes, seeded(seed)) for seed in (5, 5, 6))
    for name in TENSORS:
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert not torch.equal(first.boxes, other.boxes)


def test_one_probability_moves_no_other_choice():
    sizes = sizes_of(80, 120, 64)
    plain, changed = (sample_view(ViewPolicy(flip_prob=p, jitter_prob=p), sizes, seeded()) for p in (0.0, 1.0))
    for name in set(TENSORS) - {"flip", "jitter"}:
        assert torch.equal(getattr(plain, name), getattr(changed, name))


def test_the_center_view_is_a_square_in_the_middle():
    sizes = torch.tensor([[100, 200], [300, 60], [50, 50]])
    view = center_view(sizes, 0.5)
    assert torch.equal(view.boxes[:, 2:], torch.tensor([[50.0, 50], [30, 30], [25, 25]]).double())
    assert torch.equal(view.boxes[:, :2] * 2 + view.boxes[:, 2:], sizes.double())
    assert not torch.stack([view.flip, view.jitter, view.grayscale, view.blur, view.solarize]).any()


@pytest.mark.parametrize(
    "sizes",
    [
        torch.ones(3).long(),
        torch.ones(3, 3).long(),
        torch.zeros(3, 2).long(),
        torch.ones(3, 2, device="meta").long(),
    ],
)
def test_sizes_that_are_none_are_refused(sizes):
    with pytest.raises(ValueError, match=r"^sizes"):
        sample_view(ViewPolicy(), sizes, seeded())
    with pytest.raises(ValueError, match=r"^sizes"):
        center_view(sizes, 0.875)


@pytest.mark.parametrize("fraction", [0.0, 1.1, float("nan")])
def test_a_center_crop_outside_the_image_is_refused(fraction):
    with pytest.raises(ValueError, match="crop_fraction"):
        center_view(sizes_of(32, 32, 2), fraction)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_generator_on_the_device_is_refused():
    with pytest.raises(ValueError, match="sampled on the CPU"):
        sample_view(ViewPolicy(), sizes_of(32, 32, 2), torch.Generator("cuda"))
