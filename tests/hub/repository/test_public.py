import pytest

from hf_ssl.data.sources import is_hub_id
from hf_ssl.hub.repository.public import public_recipe, public_results


def make_results(dataset, revision=None, command="hf-ssl pretrain"):
    return {
        "model": {"config": {"backbone": "resnet18"}},
        "pretraining": {
            "dataset": dataset,
            "revision": revision,
            "arguments": {"dataset": dataset, "output_dir": "runs/mine", "views": [{"mask": "~/masks/a"}]},
            "command": command,
        },
    }


@pytest.mark.parametrize(
    ("dataset", "shown"),
    [
        ("/home/someone/photos", "photos"),
        ("../shared/data/tiny-imagenet-100", "tiny-imagenet-100"),
        ("~/photos/", "photos"),
        ("a/b/c", "c"),
        ("..", "folder"),
        ("embedded", "embedded"),
    ],
)
def test_local_data_goes_by_the_last_part_of_its_path(dataset, shown):
    public = public_results(make_results(dataset, command=f"hf-ssl pretrain --dataset {dataset} --x={dataset}"))
    assert public["pretraining"]["dataset"] == public["pretraining"]["arguments"]["dataset"] == shown
    assert public["pretraining"]["command"] == f"hf-ssl pretrain --dataset {shown} --x={shown}"
    assert not is_hub_id(shown)


def test_a_hub_id_stays_unless_it_is_a_folder_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert public_results(make_results("org/photos"))["pretraining"]["dataset"] == "org/photos"
    (tmp_path / "org" / "photos").mkdir(parents=True)
    assert public_results(make_results("org/photos"))["pretraining"]["dataset"] == "photos"
    assert public_results(make_results("org/photos", "0519dc2"))["pretraining"]["dataset"] == "org/photos"


def test_a_relative_path_of_two_parts_is_shortened_wherever_the_card_is_written():
    results = make_results("/somewhere/patients/xrays", command="hf-ssl pretrain --dataset patients/xrays")
    results["pretraining"]["arguments"]["dataset"] = "patients/xrays"
    public = public_results(results)["pretraining"]
    assert public["dataset"] == public["arguments"]["dataset"] == "xrays"
    assert public["command"] == "hf-ssl pretrain --dataset xrays"


def test_other_words_stay_and_the_run_is_not_changed():
    command = "hf-ssl pretrain --config simclr_report --views '[{crop_scale: [0.2, 1.0]}]' --output_dir /tmp/a/run"
    results = make_results("embedded", command=command)
    public = public_results(results)
    assert public["pretraining"]["command"] == command.replace("/tmp/a/run", "run")
    assert public["pretraining"]["arguments"]["output_dir"] == "runs/mine"
    assert public["pretraining"]["arguments"]["views"] == [{"mask": "a"}]
    assert results["pretraining"]["command"] == command


def test_class_names_are_not_taken_for_paths():
    results = make_results("embedded")
    results["evaluation"] = {"dataset": "embedded", "revision": None, "class_names": ["/b/", "../a"]}
    assert public_results(results)["evaluation"]["class_names"] == ["/b/", "../a"]


def test_the_recipe_is_shortened_like_the_results():
    results = make_results("data/of/mine")
    assert public_recipe({"dataset": "data/of/mine", "seed": 0}, results) == {"dataset": "mine", "seed": 0}
