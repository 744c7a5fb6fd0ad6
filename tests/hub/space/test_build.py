import ast
import importlib.metadata
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import HfApi, SpaceCard
from packaging.requirements import Requirement

import hf_ssl
from hf_ssl.commands import space as command
from hf_ssl.hub.repository.layout import FILES, list_repository
from hf_ssl.hub.space import build
from hf_ssl.hub.space.build import APP, build_space, copy_package, is_space
from hf_ssl.hub.space.demo_model import DemoModel
from hf_ssl.hub.space.image_index import ImageIndex

PACKAGE = Path(hf_ssl.__file__).parent


def test_the_folder_has_all_that_the_app_needs(space, whole_view_runs):
    assert {path.name for path in space.iterdir()} == {
        *("README.md", "requirements.txt", "app.py", "space.json", "models", "index", "examples", "hf_ssl")
    }
    assert (space / "app.py").read_bytes() == APP.read_bytes()
    assert json.loads((space / "space.json").read_text())["models"] == ["simclr", "mae-tiny"]
    for name, run in (("simclr", "simclr"), ("mae-tiny", "mae-mean")):
        assert set(FILES) <= list_repository(space / "models" / name)
        weights = "pretraining/model.safetensors"
        assert (space / "models" / name / weights).read_bytes() == (whole_view_runs[run] / weights).read_bytes()
    # Never one file for each image.
    assert len(list((space / "index").iterdir())) == 2
    assert 1 <= len(list((space / "examples").glob("*.jpg"))) <= 10


def test_the_whole_package_is_there(space):
    sources = {path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py")}
    copied = {path.relative_to(space / "hf_ssl") for path in (space / "hf_ssl").rglob("*") if path.is_file()}
    assert sources <= copied
    assert {path.suffix for path in copied} >= {".py", ".yaml", ".json", ".md"}


def test_what_running_a_package_leaves_is_not_copied(tmp_path):
    for path in ("a.py", "b/c.yaml", "__pycache__/a.pyc", "b/__pycache__/c.pyc", ".DS_Store", "b/.cache/d.py"):
        (tmp_path / "package" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "package" / path).write_text(path)
    copy_package(tmp_path / "package", tmp_path / "copy")
    assert list_repository(tmp_path / "copy") == {"a.py", "b/c.yaml"}


def test_the_requirements_are_the_package_s_own_without_extras_and_gradio(space):
    required = {Requirement(line).name for line in (space / "requirements.txt").read_text().splitlines()}
    declared = map(Requirement, importlib.metadata.requires("hf_ssl"))
    assert required == {requirement.name for requirement in declared if requirement.marker is None}
    assert {"torch", "timm"} <= required and "gradio" not in required


def test_no_file_names_a_place_on_this_machine(space, whole_view_runs, texture_folder):
    for path in space.rglob("*"):
        if path.is_file():
            for place in (texture_folder, whole_view_runs["simclr"].parent, space.parent):
                assert str(place).encode() not in path.read_bytes(), path


def test_the_readme_is_a_card_of_a_space(space, texture_folder):
    card = SpaceCard.load(space / "README.md")
    data = card.data.to_dict()
    assert (data["sdk"], data["app_file"], data["license"]) == ("gradio", "app.py", "apache-2.0")
    assert data["title"] == "SimCLR and MAE on your picture"
    assert all(isinstance(data[name], str) for name in ("sdk_version", "python_version"))
    assert len(data["emoji"]) == 1 and {"colorFrom", "colorTo"} <= set(data)
    assert "econstructions" in data["short_description"] and len(data["short_description"]) <= 60
    assert f"64 images of {texture_folder.name}" in card.text
    assert "models" not in data and "datasets" not in data  # none of them is on the Hub


def test_the_app_uses_what_there_is(space):
    tree = ast.parse((space / "app.py").read_text())
    compile(tree, "app.py", "exec")
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    ours = [node for node in imports if node.module.split(".")[0] == "hf_ssl"]
    assert ours
    for node in ours:
        module = __import__(node.module, fromlist=[name.name for name in node.names])
        assert all(hasattr(module, name.name) for name in node.names), node.module


def test_it_runs_from_elsewhere_with_only_the_copied_package(space, tmp_path):
    moved = shutil.copytree(space, tmp_path / "moved")
    code = """if True:
        import json, sys
        from pathlib import Path
        folder = Path(sys.argv[1])
        sys.path.insert(0, str(folder))  # as `python app.py` does
        import hf_ssl
        from hf_ssl.hub.space.demo_model import DemoModel
        from hf_ssl.hub.space.image_index import ImageIndex
        model = DemoModel(folder / "models" / "mae-tiny")
        index = ImageIndex.read(folder / "index")
        features, scores = model.encode(model.view_picture((folder / "examples" / "1.jpg").read_bytes()))
        nearest = [(image.number, image.similarity) for image in index.nearest("mae-tiny", features[0], 3)]
        print(json.dumps([hf_ssl.__file__, nearest, model.name_classes(scores[0], 5)]))
    """
    ran = subprocess.run(
        [sys.executable, "-c", code, str(moved)], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert ran.returncode == 0, ran.stderr
    place, nearest, classes = json.loads(ran.stdout.splitlines()[-1])
    assert Path(place).is_relative_to(moved)
    model, index = DemoModel(space / "models" / "mae-tiny"), ImageIndex.read(space / "index")
    features, scores = model.encode(model.view_picture((space / "examples" / "1.jpg").read_bytes()))
    here = index.nearest("mae-tiny", features[0], 3)
    assert [number for number, _ in nearest] == [image.number for image in here]
    assert [similarity for _, similarity in nearest] == pytest.approx([image.similarity for image in here], abs=1e-5)
    assert dict(classes) == pytest.approx(dict(model.name_classes(scores[0], 5)), abs=1e-5)


@pytest.fixture
def build_tiny(whole_view_runs, texture_folder):
    """Build the Space of one tiny model."""
    return lambda output, **arguments: build_space(
        [str(whole_view_runs["simclr"])], output, **{"dataset": str(texture_folder), "num_images": 4, **arguments}
    )


def test_an_earlier_space_is_replaced_also_after_it_ran(build_tiny, tmp_path):
    space = build_tiny(tmp_path / "space")
    for path in (".gradio/certificate.pem", "hf_ssl/__pycache__/cli.cpython-311.pyc"):
        (space / path).parent.mkdir(exist_ok=True)
        (space / path).write_text("left behind")
    assert is_space(list_repository(space))
    build_tiny(space, title='Mine: "<b>" *x*')
    assert not (space / ".gradio").exists()
    assert SpaceCard.load(space / "README.md").data.title == 'Mine: "<b>" *x*'
    assert "<b>" not in SpaceCard.load(space / "README.md").text
    assert [path.name for path in tmp_path.iterdir()] == ["space"]


def test_the_readme_promises_no_reconstruction_where_no_model_draws(build_tiny, tmp_path):
    readme = (build_tiny(tmp_path / "space") / "README.md").read_text()
    assert "econstruct" not in readme and "short_description: Nearest images" in readme


@pytest.mark.parametrize("name", ["app.py", "README.md", "requirements.txt"])
def test_what_a_user_changed_is_not_replaced(build_tiny, tmp_path, name):
    space = build_tiny(tmp_path / "space")
    with (space / name).open("a") as file:
        file.write("# mine\n")
    before = {path: (space / path).read_bytes() for path in list_repository(space)}
    with pytest.raises(FileExistsError, match=f"{name}' is not as hf-ssl wrote it; choose another folder"):
        build_tiny(space)
    assert {path: (space / path).read_bytes() for path in list_repository(space)} == before


def test_a_space_of_another_version_is_replaced(build_tiny, tmp_path, monkeypatch):
    (tmp_path / "app.py").write_text("# of another version\n")
    with monkeypatch.context() as patched:
        patched.setattr(build, "APP", tmp_path / "app.py")
        space = build_tiny(tmp_path / "space")
    assert (space / "app.py").read_bytes() != APP.read_bytes()
    build_tiny(space)
    assert (space / "app.py").read_bytes() == APP.read_bytes()


@pytest.mark.parametrize(
    "files",
    [
        ["notes.txt"],
        ["README.md", "app.py"],
        ["space.json", "thesis.tex"],
        ["space.json", "models/mine/model.bin"],
        ["space.json", "models/notes.txt"],
    ],
)
def test_a_foreign_folder_is_left_alone(build_tiny, tmp_path, files):
    for name in files:
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / name).write_text(name)
    with pytest.raises(FileExistsError, match="choose another folder"):
        build_tiny(tmp_path / "mine")
    assert list_repository(tmp_path / "mine") == set(files)


def test_a_failure_leaves_the_earlier_space(build_tiny, tmp_path, monkeypatch):
    space = build_tiny(tmp_path / "space")
    before = {path: (space / path).read_bytes() for path in list_repository(space)}

    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(build, "_render_readme", fail)
    with pytest.raises(OSError, match="disk full"):
        build_tiny(tmp_path / "space")
    assert {path: (space / path).read_bytes() for path in list_repository(space)} == before
    assert [path.name for path in tmp_path.iterdir()] == ["space"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"num_images": 0}, "num_images is 0; choose at least 1"), ({"split": "tran"}, "has no split 'tran'")],
)
def test_an_error_says_what_to_do(build_tiny, arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        build_tiny(tmp_path / "space", **arguments)
    assert not list(tmp_path.iterdir())


def test_data_that_are_not_here_are_asked_for(repositories, tmp_path):
    with pytest.raises(
        FileNotFoundError, match="'tiny-photos'.* is not here; give its folder or Hub id with --dataset"
    ):
        build_space([str(repositories["simclr"])], tmp_path / "space")


@pytest.mark.parametrize(
    ("dataset", "revision"), [("~/Pictures", None), ("Pictures", None), ("org/pictures", None), ("org/pictures", "v1")]
)
def test_a_model_from_the_hub_names_no_folder_here(dataset, revision, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder in ("Pictures", "org/pictures", "org/pictures@v1", "mine"):
        (tmp_path / folder).mkdir(parents=True)
    evaluation = {"dataset": dataset, "revision": revision}
    with pytest.raises(ValueError, match="comes from the Hub and names the data set .* --dataset"):
        build._find_data(evaluation, "ana/tiny@v1")
    # Whoever made the model here chose its data.
    assert build._find_data(evaluation, "mine").startswith(dataset)


@pytest.mark.parametrize(
    ("dataset", "revision", "name"),
    [("embedded", None, "embedded"), ("org/set", None, "org/set"), ("org/set", "v1", "org/set@v1")],
)
def test_a_model_from_the_hub_names_public_data(dataset, revision, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert build._find_data({"dataset": dataset, "revision": revision}, "ana/tiny") == name


def test_models_of_one_name_are_refused(whole_view_runs, tmp_path):
    other = shutil.copytree(whole_view_runs["mae-cls"], tmp_path / "simclr")
    with pytest.raises(ValueError, match="Two models are named 'simclr'; rename"):
        build_space([str(whole_view_runs["simclr"]), str(other)], tmp_path / "space")
    assert not (tmp_path / "space").exists()


def test_a_repository_without_weights_is_refused(repositories, tmp_path):
    bare = shutil.copytree(repositories["simclr"], tmp_path / "bare")
    (bare / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks model\.safetensors; write the folder anew"):
        build_space([str(bare)], tmp_path / "space")


def test_a_model_comes_from_the_hub_too(hub, repositories, texture_folder, tmp_path):
    api = HfApi()
    api.create_repo("ana/tiny")
    api.upload_folder(repo_id="ana/tiny", folder_path=repositories["mae-cls"])
    api.create_tag("ana/tiny", tag="v1")
    space = build_space(["ana/tiny@v1"], tmp_path / "space", dataset=str(texture_folder), num_images=4)
    weights = "pretraining/model.safetensors"
    assert (space / "models/tiny" / weights).read_bytes() == (repositories["mae-cls"] / weights).read_bytes()
    assert SpaceCard.load(space / "README.md").data.models == ["ana/tiny"]
    assert is_space(list_repository(space))


def test_the_command_writes_the_folder_and_says_how_to_start_it(whole_view_runs, texture_folder, tmp_path, capsys):
    output = tmp_path / "space"
    argv = [str(whole_view_runs["simclr"]), "--output", str(output), "--dataset", str(texture_folder)]
    command.run([*argv, "--num_images", "4", "--title", "Mine"], "hf-ssl space")
    printed = capsys.readouterr().out
    assert f"python {output / 'app.py'}" in printed and f"gradio=={build.GRADIO_VERSION}" in printed
    assert json.loads((output / "space.json").read_text())["title"] == "Mine"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nowhere", "--output", "x"], "The model 'nowhere' is not here"),
        ([".", "--output", "x"], "holds no results.json"),
        (["nowhere"], "--output; see hf-ssl space --help"),
    ],
)
def test_the_command_s_errors(argv, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        command.run(argv, "hf-ssl space")
    assert not list(tmp_path.iterdir())
