import json
import shutil

import pytest

from hf_ssl.hub.repository.assemble import assemble_repository
from hf_ssl.hub.space.build import build_space

NUM_IMAGES = 64


@pytest.fixture(scope="session")
def whole_view_runs(runs, tmp_path_factory):
    """The runs as if their probes had seen the whole central square, so that 32 px pictures are not resampled."""
    copies = {}
    for name, run in runs.items():
        copies[name] = shutil.copytree(run, tmp_path_factory.mktemp("whole") / name)
        results = json.loads((run / "results.json").read_text())
        results["evaluation"]["crop_fraction"] = 1.0
        (copies[name] / "results.json").write_text(json.dumps(results))
    return copies


@pytest.fixture(scope="session")
def space(whole_view_runs, texture_folder, tmp_path_factory):
    """The Space of a run and of a repository folder, its index all training images of `texture_folder`."""
    folder = tmp_path_factory.mktemp("spaces")
    repository = assemble_repository(whole_view_runs["mae-mean"], folder / "mae-tiny")
    models = [str(whole_view_runs["simclr"]), str(repository)]
    return build_space(models, folder / "space", dataset=str(texture_folder), num_images=NUM_IMAGES)
