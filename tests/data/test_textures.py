import io

import datasets
import numpy as np
import PIL.Image
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hf_ssl.data import make_textures, open_source


def pictures_and_labels(rows):
    pictures = np.stack([np.asarray(image) for image in rows["image"]]).astype(np.float32) / 255
    return pictures, np.array(rows["label"])


@pytest.fixture(scope="module")
def train():
    return pictures_and_labels(make_textures("train", 2000))


@pytest.fixture(scope="module")
def validation():
    return pictures_and_labels(make_textures("validation", 1000))


def probe(features, train, validation):
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=200))
    classifier.fit(features(train[0]), train[1])
    return classifier.score(features(validation[0]), validation[1])


def raw_pixels(pictures):
    return pictures.reshape(len(pictures), -1)


def turned_spectrum(pictures):
    """Power of each wavelength, and how it spreads over directions, whatever the orientation."""
    grey = pictures.mean(3)
    size = grey.shape[1]
    window = np.outer(np.hanning(size), np.hanning(size))
    grey = (grey - grey.mean((1, 2), keepdims=True)) * window
    power = np.abs(np.fft.fft2(grey)) ** 2
    power /= power.sum((1, 2), keepdims=True)
    y, x = np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size), indexing="ij")
    radius, direction = np.round(np.hypot(x, y) * size), np.arctan2(y, x)
    features = [
        np.abs((power * (radius == k) * np.exp(1j * order * direction)).sum((1, 2)))
        for k in range(1, size // 2)
        for order in (0, 2, 4, 6)
    ]
    return np.log(np.stack(features, axis=1) + 1e-4)


def test_classes_cannot_be_read_from_pixels_but_are_in_the_pictures(train, validation):
    assert probe(raw_pixels, train, validation) < 0.25
    assert probe(turned_spectrum, train, validation) > 0.6


def test_brightness_colour_and_contrast_say_nothing_about_the_class(train, validation):
    def statistics(pictures):
        return np.concatenate([pictures.mean((1, 2)), pictures.std((1, 2))], axis=1)

    assert probe(statistics, train, validation) < 0.1


def test_pictures_are_near_grey(train):
    grey = train[0].mean(3, keepdims=True)
    assert np.abs(train[0] - grey).mean() < 0.1 * train[0].std()


def test_the_schema_is_that_of_the_hub_data_set():
    rows = make_textures("validation", 40)
    assert rows.column_names == ["image", "label"]
    assert isinstance(rows.features["image"], datasets.Image)
    names = rows.features["label"].names
    assert len(names) == len(set(names)) == 20 and "stripes fine" in names
    assert sorted(rows["label"]) == sorted(2 * list(range(20)))
    data = rows.cast_column("image", datasets.Image(decode=False))[0]["image"]["bytes"]
    image = PIL.Image.open(io.BytesIO(data))
    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (32, 32))


def test_the_same_arguments_give_the_same_pictures():
    def encoded(*arguments):
        # Past the cache, so that it is drawn anew.
        rows = make_textures.__wrapped__(*arguments).cast_column("image", datasets.Image(decode=False))
        return [image["bytes"] for image in rows["image"]]

    drawn = encoded("train", 30, 32, 1)
    assert drawn == encoded("train", 30, 32, 1)
    assert len(set(drawn)) == 30
    assert not set(drawn) & set(encoded("train", 30, 32, 2))
    assert not set(drawn) & set(encoded("validation", 30, 32, 1))


def test_the_default_sizes():
    source = open_source("embedded", split="validation")
    assert source.num_rows == 2000 and not source.is_stream
    assert make_textures("train", 3, 48)[0]["image"].size == (48, 48)
