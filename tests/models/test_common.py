"""What holds for the models of every method, after the common model tests of transformers."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import pretraining_input
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_auto_classes_know_the_method(tiny_config):
    config = AutoConfig.for_model(**tiny_config.to_diff_dict())
    assert type(config) is type(tiny_config)
    encoder, model = AutoModel.from_config(config), AutoModelForPreTraining.from_config(config)
    assert type(encoder).__module__ == type(model).__module__
    assert type(model).__name__.endswith("ForPreTraining")


def test_saving_and_loading_is_exact(tiny_config, tmp_path):
    model = AutoModelForPreTraining.from_config(tiny_config)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForPreTraining.from_pretrained(tmp_path)
    of_the_file = ("architectures", "dtype", "_name_or_path", "transformers_version")
    configs = [
        {name: value for name, value in one.config.to_dict().items() if name not in of_the_file}
        for one in (model, loaded)
    ]
    assert configs[0] == configs[1]
    states = model.state_dict(), loaded.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_channels_last_weights_can_be_saved(tiny_config, tmp_path):
    model = AutoModelForPreTraining.from_config(tiny_config).to(memory_format=torch.channels_last)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForPreTraining.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(weight, loaded[name]) for name, weight in model.state_dict().items())


def test_the_encoder_loads_from_a_pretraining_checkpoint(tiny_config, tmp_path):
    model = AutoModelForPreTraining.from_config(tiny_config).eval()
    model.save_pretrained(tmp_path)
    encoder, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(encoder.eval()(images).pooler_output, model.to_timm()(images), rtol=0, atol=1e-6)


def test_every_weight_is_initialised_when_the_checkpoint_lacks_it(tiny_config, tmp_path):
    """Weights come to life on the meta device: what a file lacks holds garbage unless the model initialises it."""
    model = AutoModelForPreTraining.from_config(tiny_config)
    model.save_pretrained(tmp_path)
    fresh = copy.deepcopy(model.state_dict())
    kept = sorted(fresh)[0]
    save_file({kept: torch.full_like(fresh[kept], 7)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = AutoModelForPreTraining.from_pretrained(tmp_path).state_dict()
    assert torch.equal(loaded[kept], torch.full_like(fresh[kept], 7))
    for name in fresh.keys() - {kept}:
        mine, theirs = loaded[name].float(), fresh[name].float()
        assert torch.isfinite(mine).all(), name
        if theirs.numel() < 2 or theirs.std() == 0:
            assert torch.equal(mine, theirs), name
        else:
            # Five standard errors of a standard deviation, generous for small tensors.
            tolerance = 5 / (2 * theirs.numel()) ** 0.5
            assert (mine.std() / theirs.std() - 1).abs() < tolerance, name
            assert (mine.mean() - theirs.mean()).abs() < 5 * theirs.std() * (2 / theirs.numel()) ** 0.5, name


def test_the_encoder_does_not_depend_on_the_rest_of_the_batch(tiny_config):
    encoder = AutoModel.from_config(tiny_config).eval()
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        together = encoder(images).pooler_output
        alone = torch.cat([encoder(image[None]).pooler_output for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_the_pooled_output_is_made_of_the_last_hidden_state(tiny_config):
    encoder = AutoModel.from_config(tiny_config).eval()
    output = encoder(torch.randn(2, 3, 32, 32))
    hidden = output.last_hidden_state
    spatial = hidden.mean(dim=(2, 3)) if hidden.dim() == 4 else hidden[:, 1:].mean(dim=1)
    torch.testing.assert_close(output.pooler_output, spatial)


def test_the_timm_model_has_a_classifier_if_asked(tiny_config):
    model = AutoModelForPreTraining.from_config(tiny_config).eval()
    classifying, plain = model.to_timm(num_classes=5), model.to_timm()
    images = torch.randn(2, 3, 32, 32)
    assert classifying(images).shape == (2, 5)
    features = classifying.forward_head(classifying.forward_features(images), pre_logits=True)
    torch.testing.assert_close(features, plain(images), rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_gradient_checkpointing_gives_the_same_gradients(tiny_config):
    model = AutoModelForPreTraining.from_config(tiny_config).train()
    checkpointed = copy.deepcopy(model)
    checkpointed.gradient_checkpointing_enable()
    images = pretraining_input(tiny_config)
    for one in (model, checkpointed):
        torch.manual_seed(1)
        one(images).loss.backward()
    for (name, weight), other in zip(model.named_parameters(), checkpointed.parameters(), strict=True):
        if weight.requires_grad:
            torch.testing.assert_close(weight.grad, other.grad, rtol=1e-4, atol=1e-6, msg=name)
    assert sum(_recomputes(checkpointed, images)) > sum(_recomputes(model, images))


def _recomputes(model, images) -> list[int]:
    """How often each block runs in a forward and backward pass."""
    runs = []
    blocks = [module for module in model.modules() if type(module).__name__ in ("Block", "BasicBlock")]
    hooks = [block.register_forward_pre_hook(lambda *_: runs.append(1)) for block in blocks]
    model(images).loss.backward()
    for hook in hooks:
        hook.remove()
    return runs


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_give_a_float32_loss_near_the_float32_one(tiny_config, dtype):
    model = AutoModelForPreTraining.from_config(tiny_config).eval()
    images = pretraining_input(tiny_config)
    with torch.no_grad():
        torch.manual_seed(1)
        expected = model(images).loss
        torch.manual_seed(1)
        loss = model.to(dtype)(images.to(dtype)).loss
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=0.05, atol=0)


def test_a_compiled_model_gives_the_same_loss(tiny_config):
    model = AutoModelForPreTraining.from_config(tiny_config).eval()
    images = pretraining_input(tiny_config)
    torch.manual_seed(1)
    expected = model(images).loss
    # Traced whole, without a break; generating code is the compiler's own business.
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.manual_seed(1)
    torch.testing.assert_close(compiled(images).loss, expected, rtol=1e-4, atol=1e-5)


def test_a_loaded_checkpoint_keeps_its_dtype(tiny_config, tmp_path):
    AutoModelForPreTraining.from_config(tiny_config).to(torch.bfloat16).save_pretrained(tmp_path)
    assert {w.dtype for w in load_file(tmp_path / "model.safetensors").values() if w.is_floating_point()} == {
        torch.bfloat16
    }
    assert AutoModel.from_pretrained(tmp_path).dtype == torch.bfloat16


def test_an_unknown_backbone_is_refused_with_the_nearest_names(tiny_config):
    with pytest.raises(ValueError, match="resnet51.*did you mean.*resnet50"):
        type(tiny_config)(backbone="resnet51")
