"""The doors where hf_ssl is not installed: a virtual environment that has all else."""

import os
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from hf_ssl.hub.doors import stock
from hf_ssl.hub.doors.stock import STOCK_DOORS, image_processor, parse_repository
from hf_ssl.hub.doors.table import make_picture


@pytest.fixture(scope="session")
def stock_python(tmp_path_factory):
    """The interpreter of an environment with links to everything that is installed here, but not to hf_ssl."""
    folder = tmp_path_factory.mktemp("environment")
    packages = folder / "packages"
    packages.mkdir()
    for entry in Path(torch.__file__).parents[1].iterdir():
        # Editable installations are found by a .pth file, or by a module that it imports.
        if not entry.name.startswith(("hf_ssl", "__editable__")) and entry.suffix != ".pth":
            (packages / entry.name).symlink_to(entry)
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    base = str(folder / "venv")
    site_packages = Path(sysconfig.get_path("purelib", "venv", {"base": base, "platbase": base}))
    (site_packages / "packages.pth").write_text(f"{packages}\n")
    return folder / "venv" / "bin" / "python"


@pytest.fixture
def run_stock(stock_python, tmp_path):
    def run(*argv):
        # -P: nothing is imported from where the script or the process is.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        return subprocess.run(
            [stock_python, "-P", *map(str, argv)], cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    return run


def test_all_stock_doors_open_without_hf_ssl(run_stock, repositories, tmp_path):
    failed = run_stock("-c", "import hf_ssl")
    assert failed.returncode == 1
    assert "ModuleNotFoundError: No module named 'hf_ssl'" in failed.stderr

    make_picture().save(tmp_path / "picture.png")
    pairs = [(folder, tmp_path / f"{name}.safetensors") for name, folder in repositories.items()]
    finished = run_stock(stock.__file__, "picture.png", *(path for pair in pairs for path in pair))
    assert finished.returncode == 0, finished.stderr

    for folder, file in pairs:
        repository, picture, written = parse_repository(str(folder)), make_picture(), load_file(file)
        with torch.no_grad():
            pixels = image_processor(repository, picture)
            features = AutoModel.from_pretrained(folder, subfolder="pretraining")(pixels).pooler_output
            for door in STOCK_DOORS:
                expected = features if door.gives == "features" else door.open(repository, picture)
                if door.name == "timm, features_only=True" and "mae" in folder.name:
                    assert door.name not in written
                else:
                    torch.testing.assert_close(written[door.name], expected, rtol=1e-4, atol=1e-5)


def test_a_command_line_without_a_repository_shows_how_to_write_one():
    with pytest.raises(SystemExit, match=r"python stock.py PICTURE REPOSITORY OUT.safetensors"):
        stock.main([])
    with pytest.raises(SystemExit, match=r"python stock.py PICTURE REPOSITORY OUT.safetensors"):
        stock.main(["picture.jpg", "org/name"])


def test_names_of_repositories(tmp_path):
    assert parse_repository(str(tmp_path)).timm_name == f"local-dir:{tmp_path}"
    assert parse_repository("org/name").timm_name == "hf-hub:org/name@main"
    assert parse_repository("org/name@epoch-10").timm_name == "hf-hub:org/name@epoch-10"
    folder = tmp_path / "a@b"
    folder.mkdir()
    assert parse_repository(str(folder)).name == str(folder)
