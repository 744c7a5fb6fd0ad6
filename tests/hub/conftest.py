import pytest
import torch
from tiny_runs import BUILDERS, HUB_DATA, REVISION, write_run

from hf_ssl.hub.repository.assemble import assemble_repository


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """One run of each kind, on local, on Hub and on embedded data."""
    local = tmp_path_factory.mktemp("data") / "tiny-photos"
    local.mkdir()
    data = {"simclr": (str(local), None), "mae-mean": (HUB_DATA, REVISION), "mae-cls": ("embedded", None)}
    made = {}
    for name, build in BUILDERS.items():
        torch.manual_seed(0)
        dataset, revision = data[name]
        made[name] = write_run(tmp_path_factory.mktemp("runs"), build(), dataset=dataset, revision=revision)
    return made


@pytest.fixture(scope="session")
def repositories(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("repositories")
    return {name: assemble_repository(run, folder / f"{name}-tiny") for name, run in runs.items()}


@pytest.fixture(params=BUILDERS)
def name(request):
    return request.param


@pytest.fixture
def run(runs, name):
    return runs[name]


@pytest.fixture
def repository(repositories, name):
    return repositories[name]
