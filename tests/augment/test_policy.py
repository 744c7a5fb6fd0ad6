import dataclasses

import pytest

from hf_ssl.augment import ViewPolicy


def test_lists_from_yaml_become_tuples():
    policy = ViewPolicy(crop_scale=[0.2, 1], crop_ratio=[1, 1], blur_sigma=[0.5, 1.5])
    assert policy == ViewPolicy(crop_scale=(0.2, 1.0), crop_ratio=(1.0, 1.0), blur_sigma=(0.5, 1.5))
    hash(policy)


def test_policies_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ViewPolicy().hue = 0.1


@pytest.mark.parametrize(
    "field, value",
    [
        ("crop_scale", (0.0, 1.0)),
        ("crop_scale", (0.2, 1.1)),
        ("crop_scale", (1.0, 0.2)),
        ("crop_scale", 0.2),
        ("crop_scale", (0.2, 0.5, 1.0)),
        ("crop_scale", ("0.2", "1.0")),
        ("crop_ratio", (0.0, 1.0)),
        ("crop_ratio", (1.0, float("inf"))),
        ("flip_prob", -0.1),
        ("jitter_prob", 1.5),
        ("grayscale_prob", float("nan")),
        ("blur_prob", "0.5"),
        ("solarize_prob", True),
        ("brightness", -0.1),
        ("contrast", float("inf")),
        ("saturation", None),
        ("hue", 0.6),
        ("blur_sigma", (0.0, 2.0)),
        ("blur_kernel_fraction", 0.0),
        ("blur_kernel_fraction", 1.5),
        ("solarize_threshold", 256),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(field, value):
    with pytest.raises(ValueError, match=rf"^{field}="):
        ViewPolicy(**{field: value})
