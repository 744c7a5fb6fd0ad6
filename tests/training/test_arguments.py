"""Recipes and the command line become arguments."""

import dataclasses

import pytest
import yaml

from hf_ssl import MAEConfig, SimCLRConfig
from hf_ssl.augment import ViewPolicy
from hf_ssl.evaluation.probe_run import parse_probe
from hf_ssl.recipes import RECIPES, recipe_names
from hf_ssl.training.arguments import PretrainArguments, parse_pretrain

PROBES = [name for name in recipe_names() if name.startswith("probe_")]
PRETRAINING = [name for name in recipe_names() if name not in PROBES]


@pytest.mark.parametrize("name", PRETRAINING)
def test_every_pretraining_recipe_is_complete(name):
    # Recipes for 64 px images leave their data to the user.
    recipe, arguments, config = parse_pretrain(["--config", name, "--dataset", "embedded"])
    assert recipe == name and arguments.output_dir == f"runs/{name}"
    assert len(arguments.views) == (2 if isinstance(config, SimCLRConfig) else 1)


@pytest.mark.parametrize("name", PROBES)
def test_every_probe_recipe_is_complete(name):
    _, _, arguments = parse_probe(["run", "--config", name])
    given = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
    assert given.items() <= dataclasses.asdict(arguments).items()


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_says_where_it_comes_from(name):
    assert (RECIPES / f"{name}.yaml").read_text().startswith("# ")


def test_the_report_s_recipes_are_as_written():
    _, arguments, config = parse_pretrain(["--config", "simclr_report"])
    assert isinstance(config, SimCLRConfig)
    assert (config.backbone, config.projection_layers, config.temperature) == ("resnet50", 2, 0.5)
    assert (arguments.batch_size, arguments.optimizer, arguments.learning_rate) == (32, "adam", 1e-3)
    assert arguments.epochs == 2 and arguments.lr_schedule == "constant" and arguments.weight_decay == 0
    assert all(view.jitter_prob > 0 and view.blur_prob > 0 for view in arguments.views)

    _, arguments, config = parse_pretrain(["--config", "mae_report"])
    assert isinstance(config, MAEConfig)
    assert (config.backbone, config.patch_size, config.mask_ratio) == ("vit_base_patch16_224", 16, 0.75)
    assert (config.decoder_type, config.decoder_hidden_size, config.decoder_num_layers) == ("mlp", 128, 2)
    assert not config.norm_pix_loss
    assert (arguments.batch_size, arguments.optimizer, arguments.learning_rate, arguments.epochs) == (
        32,
        "adam",
        1e-4,
        2,
    )


def test_the_command_line_wins():
    flags = ["--batch_size", "7", "--learning_rate=2e-4", "--mask_ratio", "0.5", "--no_norm_pix_loss"]
    mappings = ["--backbone_kwargs", '{"depth": 3}', "--views", "[{flip_prob: 0.25}]"]
    _, arguments, config = parse_pretrain(["--config", "mae_demo", *flags, *mappings])
    assert (arguments.batch_size, arguments.learning_rate) == (7, 2e-4)
    assert (config.mask_ratio, config.backbone_kwargs, config.norm_pix_loss) == (0.5, {"depth": 3}, False)
    assert arguments.views == (ViewPolicy(flip_prob=0.25),)


def test_a_recipe_may_be_a_file_with_a_base_and_numbers_in_any_form(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("base: simclr_demo\ntemperature: 1\nlearning_rate: 3e-4\nepochs: 5\n")
    name, arguments, config = parse_pretrain(["--config", str(path)])
    assert name == "mine" and config.backbone == "resnet18"
    assert (config.temperature, arguments.learning_rate, arguments.epochs) == (1.0, 3e-4, 5.0)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "No recipe"),
        (["--config", "simclr_raport"], "did you mean 'simclr_report'"),
        (["--config", "mae_demo", "--bach_size", "3"], "'--bach_size' is unknown; did you mean '--batch_size'"),
        (["--config", "mae_demo", "--temperature", "0.1"], "'--temperature' is unknown"),
        (["--config", "mae_demo", "--batch", "3"], "'--batch' is unknown"),
        (["--config", "mae_demo", "--batch_size", "many"], "batch_size.*invalid int value: 'many'"),
        (["--config", "mae_demo", "--batch_size", "0"], "batch_size is 0; choose a value at least 1"),
        (["--config", "mae_demo", "--optimizer", "adamw2"], "optimizer"),
        (["--config", "mae_demo", "--views", "[{crop: 1}]"], "unknown key 'crop'"),
        (["--config", "mae_demo", "--mask_ratio", "1.5"], r"inside \(0, 1\)"),
        (["--config", "mae_demo", "--backbone_kwargs", "3"], "backbone_kwargs"),
        (["--config", "probe_mae"], "model_type"),
        (["--config", "mae_demo", "stray"], "'stray' was not expected"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(argv, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        parse_pretrain(argv)
    assert "\n" not in str(error.value)


def test_an_unknown_key_of_a_recipe_is_an_error(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("base: simclr_demo\nlearning_rat: 1\n")
    with pytest.raises(ValueError, match="'learning_rat' is unknown; did you mean 'learning_rate'"):
        parse_pretrain(["--config", str(path)])


def test_a_recipe_s_values_are_checked_like_those_of_flags(tmp_path):
    path = tmp_path / "mine.yaml"
    for line, message in (
        ("optimizer: adma", "optimizer is 'adma'; choose one of adam, adamw, sgd, lars"),
        ("lr_schedule: linear", "lr_schedule is 'linear'; choose one of constant, cosine"),
        ("lr_scaling: cubic", "lr_scaling is 'cubic'"),
        ("mixed_precision: fp8", "mixed_precision is 'fp8'"),
        ("warmup_epochs: 99", "warmup_epochs is 99.0; choose a value below the 8 epochs"),
        ("dataset: null", "names no dataset; add --dataset"),
    ):
        path.write_text(f"base: mae_demo\n{line}\n")
        with pytest.raises(ValueError, match=message):
            parse_pretrain(["--config", str(path)])
    path.write_text("mixed_precision: fp8")
    with pytest.raises(ValueError, match="mixed_precision is 'fp8'; choose one of no, bf16, fp16"):
        parse_probe(["run", "--config", str(path)])


def test_a_base_may_lie_beside_the_recipe(tmp_path, monkeypatch):
    (tmp_path / "first.yaml").write_text("base: mae_demo\nseed: 5\n")
    (tmp_path / "second.yaml").write_text("base: first.yaml\nbatch_size: 3\n")
    monkeypatch.chdir("/")
    _, arguments, _ = parse_pretrain(["--config", str(tmp_path / "second.yaml")])
    assert (arguments.seed, arguments.batch_size) == (5, 3)


def test_the_learning_rate_follows_the_effective_batch():
    for scaling, factor in (("none", 1.0), ("linear", 2.0), ("sqrt", 512**0.5)):
        arguments = PretrainArguments(learning_rate=0.1, lr_scaling=scaling)
        assert arguments.peak_learning_rate(512) == pytest.approx(0.1 * factor)
