"""The rows: all names of the goals, reasons of those that cannot be measured, and their checks on small models."""

import importlib
import sys

import pytest
import torch
from tiny_models import TINY

from hf_ssl.benchmark.measuring import CheckFailedError, NotMeasuredError, Options, measure_row, require_package
from hf_ssl.benchmark.memory import measure_here
from hf_ssl.benchmark.pairs.mae import check_mae, in_peer_layout, mae_input, mae_pair
from hf_ssl.benchmark.pairs.simclr import check_simclr, simclr_input, simclr_pair
from hf_ssl.benchmark.rows import ROWS


def test_there_is_a_row_for_every_name_of_the_goals():
    names = [row.name for row in ROWS]
    assert names == [*(f"C{number}" for number in range(1, 13)), *(f"G{number}" for number in range(1, 10))]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
@pytest.mark.parametrize("row", [row for row in ROWS if row.name.startswith("G")], ids=lambda row: row.name)
def test_gpu_rows_say_that_they_need_one(row):
    record = measure_row(row, Options())
    assert (record["status"], record["experiments"]) == ("not measured", [])
    assert "needs a CUDA GPU" in record["reason"]


def test_a_peer_that_is_not_installed_is_named_with_the_fix():
    with pytest.raises(NotMeasuredError, match=r"not_there is not installed: pip install 'hf_ssl\[bench\]'"):
        require_package("not_there")


@pytest.mark.parametrize("name", ["loader", "loss", "step", "probe", "startup", "gpu", "end_to_end"])
def test_rows_import_without_the_peers(name, monkeypatch):
    module = importlib.import_module(f"hf_ssl.benchmark.rows.{name}")
    for peer in ("lightly", "albumentations", "kornia"):
        monkeypatch.setitem(sys.modules, peer, None)
    importlib.reload(module)


def test_mae_s_check_finds_both_equal_and_a_changed_weight():
    ours, peer = mae_pair(TINY["mae"]())
    images, noise = mae_input(ours.config, 2)
    found = check_mae(ours, peer, images, noise, ("fp32", "bf16"))
    assert "hf_ssl fp32 gradients" in found and "transformers bf16 loss" in found
    with torch.no_grad():
        ours.decoder_pred.bias.add_(0.1)
    with pytest.raises(CheckFailedError, match="hf_ssl fp32 loss: differs"):
        check_mae(ours, peer, images, noise, ("fp32",))


def test_every_weight_of_ours_has_a_place_in_transformers():
    ours, peer = mae_pair(TINY["mae"]())
    layout = in_peer_layout(ours.state_dict())
    assert {name: weight.shape for name, weight in layout.items()} == {
        name: weight.shape for name, weight in peer.state_dict().items()
    }


def test_simclr_s_check_finds_both_equal_and_a_changed_weight():
    pytest.importorskip("lightly")
    ours, peer = simclr_pair(TINY["simclr"](projection_hidden_size=24))
    views = simclr_input(ours.config, 4)
    assert "gradients to" in check_simclr(ours, peer, views)
    assert ours.training and peer.training
    peer.criterion.temperature = 0.4
    with pytest.raises(CheckFailedError, match="fp32 loss with frozen batch statistics: differs"):
        check_simclr(ours, peer, views)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_loss_s_check_finds_both_equal(precision):
    pytest.importorskip("lightly")
    loss = importlib.import_module("hf_ssl.benchmark.rows.loss")
    assert "gradients to" in loss.check_equal(256, precision)


def allocate(megabytes):
    return lambda: torch.ones(megabytes * 2**18)


def test_peak_memory_is_what_the_call_takes_beyond_its_inputs():
    assert measure_here(allocate, (1,), (64,), torch.get_num_threads()) == pytest.approx(64 * 2**20, rel=0.1)
