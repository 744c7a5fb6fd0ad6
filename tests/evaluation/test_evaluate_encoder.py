import copy
import weakref

import pytest
import torch
from torch import nn

from hf_ssl.data import ImageLoader, make_textures, wrap_dataset
from hf_ssl.evaluation import evaluate_encoder
from hf_ssl.evaluation.evaluate_encoder import evaluate_encoders
from hf_ssl.evaluation.features import Features, extract_all
from hf_ssl.evaluation.knn import knn_scores
from hf_ssl.evaluation.probe_arguments import ProbeArguments
from hf_ssl.evaluation.results import write_results

VIEW = {"output_size": 32, "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "device": "cpu"}


class Spectrum(nn.Module):
    """Power of each spatial frequency: blind to phase, as a good encoder of textures should be."""

    def forward(self, pixel_values):
        power = torch.fft.rfft2(pixel_values.mean(dim=1)).abs()[:, ::2, ::2]
        return power.add(0.1).log().flatten(1)


@pytest.fixture(scope="module")
def texture_loaders():
    return [
        ImageLoader(
            wrap_dataset(make_textures(split, num_images), name="embedded", split=split),
            batch_size=100,
            image_size=32,
            shuffle=False,
            drop_last=False,
        )
        for split, num_images in (("train", 1000), ("validation", 400))
    ]


@pytest.fixture(scope="module")
def encoders(pooled_encoder):
    mean_color = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return {"pretrained": pooled_encoder(Spectrum()), "random": pooled_encoder(mean_color)}


@pytest.fixture(scope="module")
def evaluation(encoders, texture_loaders):
    lines = []
    outcome = evaluate_encoders(encoders, *texture_loaders, num_classes=20, **VIEW, report=lines.append)
    return outcome, lines


@pytest.mark.parametrize("classifier", ["linear_probe", "knn"])
def test_a_good_encoder_beats_a_bad_one_and_the_pixels(evaluation, classifier):
    accuracies = {row["encoder"]: row["accuracy"] for row in evaluation[0].results if row["classifier"] == classifier}
    assert list(accuracies) == ["pretrained", "random", "raw_pixels"]
    assert accuracies["pretrained"] > 1.5 * max(accuracies["random"], accuracies["raw_pixels"])


def test_the_folded_classifier_has_the_accuracy_that_is_reported(evaluation, encoders, texture_loaders):
    outcome = evaluation[0]
    assert set(outcome.classifiers) == {"pretrained", "random"}
    for row in outcome.results[:2]:
        test = extract_all(encoders, texture_loaders[1], **VIEW)[row["encoder"]]
        predicted = outcome.classifiers[row["encoder"]](test.features).argmax(dim=1)
        assert (predicted == test.labels).float().mean().item() == pytest.approx(row["accuracy"])
        assert row["feature_dim"] == test.features.shape[1]


def test_knn_is_measured_on_the_same_features(evaluation, encoders, texture_loaders):
    train, test = (extract_all(encoders, loader, **VIEW)["random"] for loader in texture_loaders)
    shares = knn_scores(train.features, train.labels, test.features, 20, k=20, temperature=0.07)
    [row] = [row for row in evaluation[0].results if (row["encoder"], row["classifier"]) == ("random", "knn")]
    assert row["accuracy"] == pytest.approx((shares.argmax(dim=1) == test.labels).float().mean().item())
    own = shares.gather(1, test.labels[:, None])
    assert row["top5_accuracy"] <= (own > 0).float().mean().item() + 1e-6
    assert row["feature_dim"] == train.features.shape[1]


def test_too_few_images_for_knn_are_refused_before_any_is_read(encoders, texture_loaders, monkeypatch):
    monkeypatch.setattr(evaluate_encoder, "extract_all", lambda *arguments, **view: pytest.fail("images were read"))
    with pytest.raises(ValueError, match="1001 neighbours cannot be taken from 1000 training images"):
        evaluate_encoders(encoders, *texture_loaders, num_classes=20, **VIEW, knn_k=1001)


def test_the_outcome_fits_the_schema(evaluation, tmp_path):
    from test_results import RESULTS

    outcome = evaluation[0]
    results = copy.deepcopy(RESULTS)
    results["evaluation"].update(
        num_train=outcome.num_train,
        num_test=outcome.num_test,
        protocol=outcome.protocol,
        knn={"k": 20, "temperature": 0.07},
        wall_time_s=outcome.wall_time_s,
        results=outcome.results,
    )
    write_results(tmp_path / "results.json", results)
    assert (outcome.num_train, outcome.num_test) == (1000, 400)


def test_the_protocol_reproduces_the_classifier(evaluation, encoders, texture_loaders):
    outcome = evaluation[0]
    weight_decay = outcome.protocol["chosen_weight_decay"]["random"]
    again = evaluate_encoders(
        {"random": encoders["random"]},
        *texture_loaders,
        num_classes=20,
        **VIEW,
        arguments=ProbeArguments(weight_decay=weight_decay),
        knn_k=None,
        raw_pixels=False,
    )
    expected = [row for row in outcome.results if (row["encoder"], row["classifier"]) == ("random", "linear_probe")]
    assert again.results == expected
    assert torch.equal(again.classifiers["random"].weight, outcome.classifiers["random"].weight)


def test_each_encoder_is_reported(evaluation):
    for name in ("pretrained", "random", "raw_pixels"):
        for measured in ("accuracy", "kNN accuracy"):
            assert any(line.startswith(f"{name}: {measured}") for line in evaluation[1])


def test_features_are_freed_as_soon_as_they_are_classified(encoders, texture_loaders, monkeypatch):
    made, fit, alive = [], evaluate_encoder.fit_linear_probe, []

    def make(encoders, loader, **view):
        labels = torch.arange(60) % 3
        features = {name: Features(torch.randn(60, 4), labels) for name in (*encoders, "raw_pixels")}
        made.append([weakref.ref(each.features) for each in features.values()])
        return features

    def count(*arguments, **options):
        alive.append([[feature() is not None for feature in split] for split in made])
        return fit(*arguments, **options)

    monkeypatch.setattr(evaluate_encoder, "extract_all", make)
    monkeypatch.setattr(evaluate_encoder, "fit_linear_probe", count)
    arguments = ProbeArguments(weight_decay=0.1)
    outcome = evaluate_encoders(encoders, *texture_loaders, num_classes=3, **VIEW, arguments=arguments, knn_k=5)
    assert alive == [[[True] * 3] * 2, [[False, True, True]] * 2, [[False, False, True]] * 2]
    assert [row["encoder"] for row in outcome.results] == ["pretrained", "random", "raw_pixels"] * 2


def test_the_protocol_holds_the_grid_and_what_was_chosen(encoders, texture_loaders):
    arguments = ProbeArguments(
        solver="sgd", epochs=3, batch_size=100, learning_rate=[1e-9, 0.1], weight_decay=[50.0, 0.0]
    )
    outcome = evaluate_encoders(
        {"pretrained": encoders["pretrained"]},
        *texture_loaders,
        num_classes=20,
        **VIEW,
        arguments=arguments,
        knn_k=None,
        raw_pixels=False,
    )
    assert outcome.protocol["learning_rate"] == [1e-9, 0.1] and outcome.protocol["weight_decay"] == [50.0, 0.0]
    assert outcome.protocol["chosen_learning_rate"] == {"pretrained": 0.1}
    assert outcome.protocol["chosen_weight_decay"] == {"pretrained": 0.0}
