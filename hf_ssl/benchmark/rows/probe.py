"""C11: the linear probe on features computed once, against a schedule that encodes the images in every epoch.

Both sides start from the same decoded views without augmentation, and see them at the same precision. The peer is the
usual probe: each batch is encoded by the frozen encoder, then one step of SGD follows (recipe probe_sgd, 100 epochs).
All its epochs cost the same, so that one is timed and multiplied. Its accuracy is that of the same steps on features
computed once, which the check shows to be the same classifier.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict

import torch
from torch import nn
from torch.nn import functional

from hf_ssl import MAEConfig, MAEModel, SimCLRConfig, SimCLRModel
from hf_ssl.augment import center_view, render_view
from hf_ssl.benchmark.checks import check_close, join
from hf_ssl.benchmark.measuring import CheckFailedError, Comparison, Experiment, Options, Row, Side
from hf_ssl.data import ImageLoader, open_source
from hf_ssl.evaluation.linear_probe import LinearProbe, fit_linear_probe
from hf_ssl.evaluation.probe_arguments import ProbeArguments
from hf_ssl.evaluation.stochastic import train_stochastic
from hf_ssl.recipes import read_recipe

SIDE = 64
NUM_TRAIN, NUM_TEST = 2000, 1000
ENCODE_BATCH = 256
# Precision, and goal and stretch of the speed-up: the goal is one at equal precision.
PRECISIONS = {"fp32": (80.0, 200.0), "bf16": (80.0, 200.0)}
FEWER_STEPS = 3
# What is left of the encoders' rounding, which depends on how images are batched, after a few steps.
STEPS_TOLERANCE = {"fp32": 1e-3, "bf16": 2e-2}

Split = tuple[torch.Tensor, torch.Tensor]


def read_split(options: Options, split: str, num_images: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Views (N, 3, SIDE, SIDE), labels (N,) and the number of classes."""
    dataset = "embedded" if options.dataset is None else str(options.dataset)
    source = open_source(dataset, split=split, label_column="label").head(num_images)
    loader = ImageLoader(source, batch_size=250, image_size=SIDE, shuffle=False, drop_last=False)
    views, labels = [], []
    for batch in loader.epoch(0):
        views.append(render_view(batch.images, center_view(batch.sizes, 1.0), SIDE, (0.5,) * 3, (0.25,) * 3))
        labels.append(batch.labels)
    return torch.cat(views), torch.cat(labels), len(source.class_names)


@torch.inference_mode()
def encode(encoder: nn.Module, views: torch.Tensor, precision: str) -> torch.Tensor:
    """Features float32 (N, D)."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
        return torch.cat([encoder(batch).pooler_output.float() for batch in views.split(ENCODE_BATCH)])


def re_encode(
    encoder: nn.Module, train: Split, num_classes: int, arguments: ProbeArguments, precision: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """The first epoch of the usual probe: weight (C, D) and bias (C,) after it."""
    views, labels = train
    generator = torch.Generator().manual_seed(arguments.seed)
    with torch.no_grad():
        num_features = encode(encoder, views[:1], precision).shape[1]
    classifier = nn.Linear(num_features, num_classes)
    with torch.no_grad():
        classifier.weight.copy_(0.01 * torch.randn(classifier.weight.shape, generator=generator))
        classifier.bias.zero_()
    optimizer = torch.optim.SGD(classifier.parameters(), lr=arguments.learning_rate, momentum=arguments.momentum)
    for rows in torch.randperm(len(views), generator=generator).split(arguments.batch_size):
        features = encode(encoder, views[rows], precision).clone()
        optimizer.zero_grad()
        functional.cross_entropy(classifier(features), labels[rows]).backward()
        optimizer.step()
    return classifier.weight.detach(), classifier.bias.detach()


def accuracy(probe: LinearProbe, features: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of right answers."""
    with torch.no_grad():
        return (probe(features).argmax(dim=1) == labels).float().mean().item()


def probe_experiment(name: str, encoder: nn.Module, train: Split, test: Split, num_classes: int) -> Experiment:
    """Ours with the choice of its weight decay, the peer, and one pass of the encoder, at each precision."""
    encoder.eval()
    views, labels = train
    schedule = ProbeArguments(**read_recipe("probe_sgd"))

    def check() -> str:
        found = []
        for precision in PRECISIONS:
            few = FEWER_STEPS * schedule.batch_size
            some = views[:few], labels[:few]
            ours, _ = train_stochastic(
                encode(encoder, some[0], precision).clone(),
                some[1],
                num_classes,
                [(schedule.learning_rate, schedule.weight_decay)],
                ProbeArguments(**{**asdict(schedule), "epochs": 1, "schedule": "constant", "milestones": []}),
            )
            peer, _ = re_encode(encoder, some, num_classes, schedule, precision)
            what = f"{precision}: weights after {FEWER_STEPS} steps on features and re-encoding"
            found.append(check_close(what, ours[0], peer, STEPS_TOLERANCE[precision]))
            features = encode(encoder, views, precision).clone()
            unseen = encode(encoder, test[0], precision).clone()
            mine = accuracy(fit_linear_probe(features, labels, num_classes), unseen, test[1])
            theirs = accuracy(fit_linear_probe(features, labels, num_classes, schedule), unseen, test[1])
            # As if the two were measured on different images, which usually overstates it.
            margin = 1.96 * ((mine * (1 - mine) + theirs * (1 - theirs)) / len(unseen)) ** 0.5
            if mine < theirs - margin:
                raise CheckFailedError(f"{precision}: accuracy {mine:.1%}, the peer's {theirs:.1%} (± {margin:.1%})")
            found.append(f"{precision}: accuracy {mine:.1%}, the peer's {theirs:.1%} (± {margin:.1%})")
        return join(found)

    def ours(precision: str) -> Callable[[], None]:
        return lambda: fit_linear_probe(encode(encoder, views, precision).clone(), labels, num_classes)

    def peer(precision: str) -> Callable[[], float]:
        def read() -> float:
            start = time.perf_counter()
            re_encode(encoder, train, num_classes, schedule, precision)
            return schedule.epochs * (time.perf_counter() - start)

        return read

    def once(precision: str) -> Callable[[], torch.Tensor]:
        return lambda: encode(encoder, views, precision)

    sides, comparisons = [], []
    for precision, (goal, stretch) in PRECISIONS.items():
        sides += [
            Side("hf_ssl", precision, ours(precision)),
            Side(f"re-encoding, {schedule.epochs} × one epoch", precision, peer(precision), gives_reading=True),
            Side("one encoding pass", precision, once(precision)),
        ]
        mine, peers, single = (side.key for side in sides[-3:])
        comparisons += [
            Comparison(mine, peers, goal=goal, stretch=stretch),
            Comparison(mine, single, figure="share", goal=1.3),
        ]
    return Experiment(
        label=f"{name}, {SIDE} px, {len(views)} images, {num_classes} classes",
        sides=sides,
        comparisons=comparisons,
        check=check,
        repeats=3,
    )


def _probe(options: Options) -> Iterator[Experiment]:
    *train, num_classes = read_split(options, "train", NUM_TRAIN)
    *test, _ = read_split(options, "validation", NUM_TEST)
    # Weights as drawn: what encoding and fitting cost does not depend on them, and the check compares accuracies.
    torch.manual_seed(0)
    resnet = SimCLRModel(SimCLRConfig(backbone="resnet18", image_size=SIDE)).to(memory_format=torch.channels_last)
    yield probe_experiment("ResNet-18", resnet, tuple(train), tuple(test), num_classes)
    vit = MAEModel(MAEConfig(backbone="vit_tiny_patch16_224", patch_size=8, image_size=SIDE))
    yield probe_experiment("ViT-Tiny/8", vit, tuple(train), tuple(test), num_classes)


ROWS = (Row("C11", "probe", "linear probe, wall clock to equal accuracy", _probe),)
