import argparse
import json
import os
import pickle
import tarfile
import warnings

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from tiny_models import TINY
from transformers import AutoModel, AutoModelForPreTraining

from hf_ssl import MAEForPreTraining, SimCLRForPreTraining
from hf_ssl.commands import import_checkpoint as command
from hf_ssl.errors import UsageError
from hf_ssl.hub.convert.export import export_transformers
from hf_ssl.hub.convert.import_checkpoint import describe_import, import_checkpoint, read_tensors
from hf_ssl.training.initialization import create_model

MAE_RECIPE = """\
model_type: mae
backbone: vit_tiny_patch16_224
backbone_kwargs: {depth: 2, embed_dim: 48, num_heads: 3}
image_size: 32
patch_size: 8
decoder_hidden_size: 32
decoder_num_layers: 1
decoder_num_heads: 2
dataset: embedded
epochs: 3
"""


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def output(tmp_path):
    return tmp_path / "imported"


def write(content, tmp_path, name="checkpoint.pth"):
    torch.save(content, tmp_path / name)
    return tmp_path / name


def official_mae():
    """The names are those of the official code: tests/models/test_mae.py."""
    return {name: torch.randn_like(weight) for name, weight in MAEForPreTraining(TINY["mae"]()).state_dict().items()}


def resnet(**kwargs):
    encoder = timm.create_model("resnet18", channels=[8, 8, 16, 16], **kwargs)
    encoder.train()(torch.randn(4, 3, 32, 32))
    return encoder.state_dict()


def assert_holds(folder, weights):
    """The imported model has these weights, to the bit, behind both classes."""
    for auto in (AutoModelForPreTraining, AutoModel):
        model, info = auto.from_pretrained(folder, output_loading_info=True)
        assert not info["missing_keys"]
        state = model.to_timm().state_dict()
        assert all(torch.equal(weight, weights[name]) for name, weight in state.items())
    return AutoModelForPreTraining.from_pretrained(folder).state_dict()


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_an_official_mae_checkpoint_with_its_decoder(tmp_path, output, pooling):
    official = official_mae()
    trained = {
        "model": official,
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-3}]},
        "epoch": 799,
        "args": argparse.Namespace(model="mae_vit_tiny", lr=1e-3),
    }
    origin = import_checkpoint(write(trained, tmp_path), TINY["mae"](pooling=pooling), output)
    state = assert_holds(output, official)
    assert all(torch.equal(weight, official[name]) for name, weight in state.items())
    assert origin.prefix == "model." and origin.fresh == {} and origin.left_out == {"optimizer": 1}
    assert origin.encoder + sum(origin.taken.values()) == len(official)
    assert json.loads((output / "origin.json").read_text())["file"] == "checkpoint.pth"
    assert AutoModel.from_pretrained(output).config.pooling == pooling


def test_an_official_mae_encoder_alone(tmp_path, output):
    official = {name: weight for name, weight in official_mae().items() if not name.startswith(("decoder", "mask"))}
    path = write({"model": official}, tmp_path)
    origin = import_checkpoint(path, TINY["mae"](), output)
    state = assert_holds(output, official)
    assert origin.taken == {} and origin.left_out == {}
    assert set(origin.fresh) == {name.split(".")[0] for name in state if name.startswith(("decoder", "mask"))}
    # What is random is a fresh model's, and the same each time.
    import_checkpoint(path, TINY["mae"](), output.with_name("again"))
    again = load_file(output.with_name("again") / "model.safetensors")
    assert all(torch.equal(weight, again[name]) for name, weight in state.items())
    fresh = MAEForPreTraining(TINY["mae"]()).state_dict()
    assert torch.equal(state["decoder_pos_embed"], fresh["decoder_pos_embed"])
    assert state["decoder_pred.weight"].std() > 0.01


@pytest.mark.parametrize(
    ("prefix", "suffix"),
    [
        ("", ".pth"),
        ("", ".safetensors"),
        ("module.", ".safetensors"),
        ("state_dict.module.encoder_q.", ".pth.tar"),
        ("state_dict.backbone.", ".ckpt"),
        ("teacher.module.backbone.encoder.", ".pt"),
        ("a.b.0.c.", ".bin"),
    ],
)
def test_the_encoder_is_found_behind_any_prefix_and_container(prefix, suffix, tmp_path, output):
    weights = resnet(num_classes=5)
    if suffix == ".safetensors":
        path = tmp_path / "checkpoint.safetensors"
        save_file({prefix + name: weight for name, weight in weights.items()}, path)
    else:
        content = {"epoch": 1}
        # Each component of the prefix is either a container of its own or the beginning of the names.
        *containers, _ = prefix.split(".")
        inside = content
        for container in containers[:1]:
            inside = inside.setdefault(container, {})
        names = ".".join([*containers[1:], ""]) if containers[1:] else ""
        inside.update({names + name: weight for name, weight in weights.items()})
        path = write(content, tmp_path, f"checkpoint{suffix}")
    origin = import_checkpoint(path, TINY["simclr"](), output)
    assert origin.prefix == prefix
    assert_holds(output, weights)
    assert origin.left_out == {f"{prefix}fc": 2} and origin.taken == {} and set(origin.fresh) == {"projection_head"}


def test_our_own_checkpoints_bring_their_head(tmp_path, output):
    model = SimCLRForPreTraining(TINY["simclr"]())
    wider = TINY["simclr"](projection_dim=8)
    path = write({"state_dict": {f"model.{name}": weight for name, weight in model.state_dict().items()}}, tmp_path)
    origin = import_checkpoint(path, TINY["simclr"](), output)
    assert origin.prefix == "state_dict.model.encoder." and not origin.fresh and not origin.left_out
    loaded = AutoModelForPreTraining.from_pretrained(output).state_dict()
    assert all(torch.equal(weight, loaded[name]) for name, weight in model.state_dict().items())
    # A head of another width: what fits is taken, what does not is fresh and left out, and both are said.
    origin = import_checkpoint(path, wider, output.with_name("other"))
    loaded = AutoModelForPreTraining.from_pretrained(output.with_name("other")).state_dict()
    same = [name for name, weight in loaded.items() if weight.shape == model.state_dict()[name].shape]
    assert all(torch.equal(loaded[name], model.state_dict()[name]) for name in same)
    assert sum(origin.fresh.values()) == sum(origin.left_out.values()) == len(loaded) - len(same) > 0
    assert origin.encoder + sum(origin.taken.values()) == len(same)
    assert "In the file, left out: state_dict.model.projection_head (" in describe_import(origin)


def test_of_several_encoders_one_is_chosen(tmp_path, output):
    query, key = resnet(num_classes=0), resnet(num_classes=0)
    names = {f"module.encoder_{which}.{name}": w for which, s in (("q", query), ("k", key)) for name, w in s.items()}
    path = write({"state_dict": names}, tmp_path)
    with pytest.raises(
        ValueError, match=r"2 encoders.*--prefix 'state_dict.module.encoder_k.' or --prefix 'state_.*'\.$"
    ):
        import_checkpoint(path, TINY["simclr"](), output)
    for prefix in ("state_dict.module.encoder_k.", "state_dict.module.encoder_k"):
        folder = output.with_name(prefix)
        origin = import_checkpoint(path, TINY["simclr"](), folder, prefix)
        assert_holds(folder, key)
        assert origin.left_out == {"state_dict.module.encoder_q": len(query)}
    with pytest.raises(ValueError, match="'nowhere.conv1.weight' is not there"):
        import_checkpoint(path, TINY["simclr"](), output, "nowhere")
    assert not output.exists()


def test_batch_norms_without_a_counter_and_half_precision(tmp_path, output):
    weights = {name: w.half() for name, w in resnet().items() if not name.endswith("num_batches_tracked")}
    import_checkpoint(write(weights, tmp_path), TINY["simclr"](), output)
    state = AutoModel.from_pretrained(output).to_timm().state_dict()
    for name, weight in state.items():
        if name in weights:
            assert weight.dtype == torch.float32 and torch.equal(weight, weights[name].float())
        else:
            assert weight == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("norm.weight"), "1 of 30 weights are wrong: 'model.norm.weight' is not there"),
        (
            lambda weights: weights.update(pos_embed=torch.zeros(1, 5, 48)),
            r"1 of 30 weights are wrong: 'model.pos_embed' is \(1, 5, 48\) and \(1, 17, 48\) is due",
        ),
        (lambda weights: weights.clear(), "holds no weight of a vit_tiny_patch16_224 by name; it has 0 tensors"),
        (
            lambda weights: [weights.pop(name) for name in list(weights) if name.startswith("blocks.1")],
            "12 of 30 weights are wrong: .* is not there; .*; …; take the recipe and the flags",
        ),
    ],
)
def test_an_encoder_that_is_not_complete_is_refused(change, message, tmp_path, output):
    weights = official_mae()
    change(weights)
    with pytest.raises(ValueError, match=message):
        import_checkpoint(write({"model": weights}, tmp_path), TINY["mae"](), output)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pth"]


def test_another_backbone_is_refused(tmp_path, output):
    with pytest.raises(
        ValueError, match="holds no weight of a vit_tiny_patch16_224 by name.*bn1.*recipe of its backb"
    ):
        import_checkpoint(write(resnet(), tmp_path), TINY["mae"](), output)
    with pytest.raises(ValueError, match=r"does not fit a resnet18 of this config.* is due;"):
        import_checkpoint(write(resnet(), tmp_path), TINY["simclr"](backbone_kwargs={}), output)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("write_evil", ["torch zip", "torch legacy", "pickle", "hidden beside the weights"])
def test_a_pickle_that_runs_code_is_refused_and_nothing_runs(write_evil, tmp_path, output):
    path, ran = tmp_path / "evil.pth", tmp_path / "ran"
    if write_evil == "pickle":
        path.write_bytes(pickle.dumps({"model": Evil(ran)}))
    else:
        content = {"model": official_mae()} if write_evil.startswith("hidden") else {}
        torch.save({**content, "x": Evil(ran)}, path, _use_new_zipfile_serialization=write_evil != "torch legacy")
    reason = "is a pickle that asks for (.*mkdir|more than tensors), which can run code, so it was not read"
    with pytest.raises(ValueError, match=reason) as error, warnings.catch_warnings():
        warnings.simplefilter("error")
        import_checkpoint(path, TINY["mae"](), output)
    assert "\n" not in str(error.value)
    assert not ran.exists() and not output.exists()
    torch.load(path, weights_only=False) if write_evil != "pickle" else pickle.loads(path.read_bytes())
    assert ran.exists()  # it was no harmless file


def test_arguments_in_a_shell_cannot_hide_code(tmp_path, output):
    ran = tmp_path / "ran"
    path = write({"model": official_mae(), "args": argparse.Namespace(hook=Evil(ran))}, tmp_path)
    with pytest.raises(ValueError, match="mkdir, which can run code"):
        import_checkpoint(path, TINY["mae"](), output)
    assert not ran.exists()


def test_lists_that_hold_each_other_twice_are_walked_once(tmp_path):
    shared = [torch.ones(1)]
    for _ in range(60):
        shared = [shared, shared]
    assert len(read_tensors(write({"model": resnet(), "shared": shared}, tmp_path))) == len(resnet()) + 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda weight: weight.to_sparse(), "are due"),
        (lambda weight: weight.to(torch.int64), "holds torch.int64 numbers.* dense floating-point numbers are due"),
        (lambda weight: weight.to(torch.complex64), "torch.complex64 numbers.* dense floating-point numbers are due"),
        (lambda weight: weight.to("meta"), "on meta, where dense floating-point numbers are due"),
        (lambda weight: weight.fill_(torch.nan), "holds numbers that are not finite"),
        (lambda weight: weight.double().fill_(1e300), "holds numbers that are not finite"),
    ],
)
def test_weights_are_dense_finite_numbers(change, reason, tmp_path, output):
    weights = resnet(num_classes=0)
    weights["layer1.0.conv1.weight"] = change(weights["layer1.0.conv1.weight"])
    with pytest.raises(ValueError, match=f"'layer1.0.conv1.weight' of '.*' .*{reason}"):
        import_checkpoint(write(weights, tmp_path), TINY["simclr"](), output)
    assert not output.exists()


def test_a_count_is_an_integer(tmp_path, output):
    weights = resnet(num_classes=0)
    weights["bn1.num_batches_tracked"] = torch.tensor(0.5)
    with pytest.raises(ValueError, match="'bn1.num_batches_tracked' of .* where dense integers are due"):
        import_checkpoint(write(weights, tmp_path), TINY["simclr"](), output)


@pytest.mark.parametrize("name", ["checkpoint.pth", "checkpoint.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\x80\x04.", b"PK\x03\x04 and no more"])
def test_a_broken_file_is_refused(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}' is (no|not|a)") as error:
        read_tensors(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_tape_archive_and_a_script_module_are_refused(tmp_path):
    with tarfile.open(tmp_path / "archive.pth", "w"):
        pass
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "script.pth")
    for name in ("archive.pth", "script.pth"):
        with pytest.raises(ValueError, match="is no checkpoint that torch can read|is a pickle that asks"):
            read_tensors(tmp_path / name)


def test_places_that_are_not_there_or_taken(tmp_path, output):
    with pytest.raises(FileNotFoundError, match="There is no checkpoint"):
        import_checkpoint(tmp_path / "nothing.pth", TINY["mae"](), output)
    output.mkdir()
    with pytest.raises(FileExistsError, match="exists already"):
        import_checkpoint(write({}, tmp_path), TINY["mae"](), output)


def test_the_command_reads_recipe_and_flags_and_says_what_it_did(tmp_path, output, capsys):
    official = official_mae()
    path = write({"model": official, "queue": torch.zeros(2)}, tmp_path)
    (tmp_path / "tiny.yaml").write_text(MAE_RECIPE.replace("image_size: 32", "image_size: 64"))
    flags = [
        "--image_size",
        "32",
        "--pooling",
        "cls",
        "--backbone_kwargs",
        '{"depth": 2, "embed_dim": 48, "num_heads": 3}',
    ]
    command.run([str(path), "--config", str(tmp_path / "tiny.yaml"), *flags, "--output", str(output)], "hf-ssl import")
    assert_holds(output, official)
    assert AutoModel.from_pretrained(output).config.pooling == "cls"
    printed = capsys.readouterr().out
    assert "The encoder: 30 tensors of checkpoint.pth" in printed and "under 'model.'" in printed
    assert "Not in the file, random: nothing." in printed and "In the file, left out: queue (1)." in printed
    # What comes next: a run that starts from it, and a stock model made of it.
    model, _ = create_model(TINY["mae"](), str(output))
    assert all(torch.equal(weight, official[name]) for name, weight in model.state_dict().items())
    assert export_transformers(str(output), tmp_path / "stock").architecture == "ViTModel"


@pytest.mark.parametrize(
    ("arguments", "recipe", "error", "message"),
    [
        (["--epochs", "3"], MAE_RECIPE, ValueError, "--epochs' is unknown"),
        ([], MAE_RECIPE + "imagesize: 3\n", ValueError, "key 'imagesize' is unknown; did you mean 'image_size'"),
        ([], MAE_RECIPE.replace("mae", "byol"), ValueError, "model_type 'byol'"),
        (["--pooling", "max"], MAE_RECIPE, ValueError, "choose 'mean' or 'cls'"),
    ],
)
def test_a_wrong_command_line_is_refused(arguments, recipe, error, message, tmp_path, output):
    (tmp_path / "tiny.yaml").write_text(recipe)
    path = write({"model": official_mae()}, tmp_path)
    with pytest.raises(error, match=message):
        command.run([str(path), "--config", str(tmp_path / "tiny.yaml"), "--output", str(output), *arguments], "")
    assert not output.exists()


def test_the_command_needs_a_recipe_and_a_folder(tmp_path):
    with pytest.raises(UsageError, match="--config"):
        command.run([str(tmp_path / "x.pth"), "--output", "somewhere"], "")
