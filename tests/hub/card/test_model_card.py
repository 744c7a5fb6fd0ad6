import ast
import copy
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from PIL import Image
from tiny_runs import HUB_DATA, REVISION

from hf_ssl.evaluation.results import find_result, read_results, write_results
from hf_ssl.hub.card.markdown import code, plain
from hf_ssl.hub.card.model_card import compare_intervals, render_card, render_code_blocks, write_card

MODEL_CARDS = Path(__file__).parents[3] / "model_cards"
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_code_on_the_card_runs_as_it_stands(repository, tmp_path, monkeypatch):
    shutil.copytree(repository, tmp_path / repository.name)
    Image.effect_mandelbrot((50, 40), (-2, -1, 1, 1), 20).convert("RGB").save(tmp_path / "picture.jpg")
    monkeypatch.chdir(tmp_path)
    blocks = PYTHON.findall((repository / "README.md").read_text())
    assert len(blocks) == 4
    feature_dim = 128 if repository.name.startswith("simclr") else 192
    for block in blocks:
        names = {}
        exec(compile(block, "README.md", "exec"), names)
        if "features" in names:
            assert names["features"].shape == (1, feature_dim)
    assert any(parameter.grad is not None for parameter in names["model"].parameters())


def test_the_metadata_is_what_was_measured(repository):
    data = ModelCard.load(repository / "README.md").data
    results = read_results(repository / "results.json")
    protocols = {"linear_probe": "linear probe", "knn": "kNN, k=20, temperature=0.07"}
    expected = {}
    for classifier, protocol in protocols.items():
        row = find_result(results, "pretrained", classifier)
        expected[f"Accuracy ({protocol})"] = ("accuracy", row["accuracy"])
        expected[f"Top-5 accuracy ({protocol})"] = ("top5_accuracy", row["top5_accuracy"])
        expected[f"Macro F1 ({protocol})"] = ("f1", row["macro_f1"])
    measured = {result.metric_name: (result.metric_type, result.metric_value) for result in data.eval_results}
    assert measured == expected
    assert {result.dataset_split for result in data.eval_results} == {"validation"}
    assert (data.library_name, data.pipeline_tag, data.license) == ("timm", "image-classification", "apache-2.0")
    assert {"self-supervised", repository.name.split("-")[0]} <= set(data.tags)
    assert data.model_name == repository.name


def test_only_hub_data_is_linked(repositories):
    cards = {name: ModelCard.load(folder / "README.md") for name, folder in repositories.items()}
    assert cards["mae-mean"].data.datasets == [HUB_DATA]
    assert {result.dataset_revision for result in cards["mae-mean"].data.eval_results} == {REVISION}
    for name in ("simclr", "mae-cls"):
        assert "datasets" not in cards[name].data.to_dict()
        assert "huggingface.co/datasets" not in cards[name].text
    assert cards["simclr"].data.eval_results[0].dataset_name == "tiny-photos"
    assert "`tiny-photos`" not in cards["mae-mean"].text


def test_the_card_says_every_result_and_every_hyper_parameter(repository):
    results = read_results(repository / "results.json")
    text = (repository / "README.md").read_text()
    for row in results["evaluation"]["results"]:
        low, high = row["accuracy_ci95"]
        assert f"{row['accuracy']:.1%} [{low:.1%}, {high:.1%}]" in text
    for part in (results["pretraining"]["arguments"], results["model"]["config"], results["evaluation"]["protocol"]):
        for name in part:
            assert re.search(rf"\| `{name}[`.\[]", text), name
    for said in ("1 h 02 min", "16,000", "hf-ssl evaluate", "pictures/loss.png", "pictures/illustration.png"):
        assert said in text
    assert (repository / "pictures" / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_no_number_is_typed_by_hand(repository, tmp_path):
    """Numbers that change in results.json change on the card: none of the old ones is left."""
    folder = shutil.copytree(repository, tmp_path / "model")
    results = read_results(folder / "results.json")
    for row in results["evaluation"]["results"]:
        for metric in ("accuracy", "top5_accuracy", "macro_f1"):
            row[metric], row[f"{metric}_ci95"] = 0.111, [0.101, 0.121]
    results["pretraining"].update(wall_time_s=7.0, images_seen=77, num_images=78, steps=79, final_loss=0.123)
    write_results(folder / "results.json", results)
    text = render_card(folder)
    for number in ("45.7%", "65.7%", "0.447", "23.4%", "1 h 02", "16,000", "3.21"):
        assert number in (repository / "README.md").read_text()
        assert number not in text


def test_without_knn_the_card_says_nothing_of_it(repository, tmp_path):
    folder = shutil.copytree(repository, tmp_path / repository.name)
    results = read_results(folder / "results.json")
    evaluation = results["evaluation"]
    evaluation["results"] = [row for row in evaluation["results"] if row["classifier"] == "linear_probe"]
    del evaluation["knn"]
    write_results(folder / "results.json", results)
    assert "kNN" in (repository / "README.md").read_text(encoding="utf-8")
    assert "kNN" not in render_card(folder)


def test_a_continued_run_names_its_base_model(repository, tmp_path):
    folder = shutil.copytree(repository, tmp_path / repository.name)
    results = read_results(folder / "results.json")
    for base, expected in (("org/base", "org/base"), ("base", None)):
        results["pretraining"]["initialized_from"] = base
        write_results(folder / "results.json", results)
        card = ModelCard(render_card(folder))
        assert card.data.base_model == expected
        assert ("https://huggingface.co/org/base" in card.text) == (expected is not None)
        assert "| started from" in card.text and "random weights" not in card.text


def test_published_checkpoints_stand_in_a_table(repository, tmp_path):
    folder = shutil.copytree(repository, tmp_path / repository.name)
    results = read_results(folder / "results.json")
    row = {"epochs": 1.0, "steps": 250, "images_seen": 4321, "accuracy_ci95": [0.1, 0.2], "top5_accuracy": 0.5}
    results["checkpoints"] = [
        {**row, "tag": f"epoch-{number}", "accuracy": 0.1 + number / 1000, "macro_f1": 0.05} for number in (1, 2)
    ]
    write_results(folder / "results.json", results)
    text = render_card(folder)
    assert "| `epoch-1` | 4,321       | 10.1% [10.0%, 20.0%]" in text and "`epoch-2`" in text and "10.2%" in text
    assert "epoch-1" not in (repository / "README.md").read_text(encoding="utf-8")


def test_the_code_that_is_run_is_the_code_on_the_card(repository):
    for repo_id in (None, "org/model"):
        blocks = render_code_blocks(repository, repo_id)
        assert blocks == PYTHON.findall(render_card(repository, repo_id))
        named = f'"{repo_id}"' if repo_id else f'"{repository.name}"'
        assert sum(named in block for block in blocks) == 3
        timm = f'"hf-hub:{repo_id}"' if repo_id else f'"local-dir:{repository.name}"'
        assert sum(timm in block for block in blocks) == 1


def test_text_of_others_does_not_become_code(repository, tmp_path):
    folder = shutil.copytree(repository, tmp_path / repository.name)
    results = read_results(folder / "results.json")
    evil = "```\n```python\nraise SystemExit\r```python\u2028raise SystemExit"
    results["pretraining"]["command"] = evil
    results["evaluation"]["command"] = "```python"
    results["pretraining"]["dataset"] = evil
    write_results(folder / "results.json", results)
    text = render_card(folder)
    assert "raise SystemExit" not in "".join(render_code_blocks(folder))
    for block in render_code_blocks(folder):
        ast.parse(block)
    fences = [token for token in MarkdownIt("commonmark").parse(text) if token.type == "fence"]
    assert [fence.info for fence in fences] == ["python"] * 4 + ["bash"]
    results["model"]["config"]["image_size"] = "1)); exit(1"
    write_results(folder / "results.json", results)
    with pytest.raises(Exception, match="image_size"):
        render_code_blocks(folder)


def test_a_card_is_a_function_of_its_folder(repository):
    text = (repository / "README.md").read_text(encoding="utf-8")
    assert render_card(repository) == text
    assert write_card(repository).read_text(encoding="utf-8") == text


@pytest.mark.parametrize("folder", sorted(MODEL_CARDS.glob("*/")), ids=lambda folder: folder.name)
def test_committed_cards_are_the_generated_ones(folder):
    assert (folder / "README.md").read_text(encoding="utf-8") == render_card(folder)
    for path in (folder / "results.json", folder / "recipe.yaml", folder / "README.md"):
        assert not re.search(r"(^|[\s\"'=])(/|~/|\.\./)\w", path.read_text(encoding="utf-8")), path


def rows(pretrained, **baselines):
    intervals = {"pretrained": pretrained, **baselines}
    row = {"classifier": "linear_probe"}
    return {"results": [{**row, "encoder": name, "accuracy_ci95": interval} for name, interval in intervals.items()]}


def test_the_verdict_follows_from_the_intervals():
    above = compare_intervals(rows([0.3, 0.4], random=[0.1, 0.2], raw_pixels=[0.1, 0.29]))
    assert above.count("above") == 2 and "no gain" not in above
    overlap, pixels = compare_intervals(rows([0.3, 0.4], random=[0.2, 0.3], raw_pixels=[0.5, 0.6])).split(". ")[:2]
    assert "no gain over the same" in overlap and "random initialisation" in overlap
    assert "below that of raw pixels" in pixels
    assert "not compared with the same encoder at random" in compare_intervals(rows([0.3, 0.4]))


def test_the_verdict_is_on_the_linear_probe():
    evaluation = rows([0.3, 0.4], random=[0.1, 0.2])
    verdict = compare_intervals(evaluation)
    for encoder, interval in (("pretrained", [0.0, 0.1]), ("random", [0.5, 0.6]), ("raw_pixels", [0.5, 0.6])):
        evaluation["results"].append({"encoder": encoder, "classifier": "knn", "accuracy_ci95": interval})
    assert compare_intervals(evaluation) == verdict


NASTY = [
    "<script>alert(1)</script>",
    "a|b",
    "*c* _d_ `e`",
    "[f](g)",
    "&lt;",
    "h\n# i",
    "\\",
    "$j$",
    "~~k~~",
    "sea_lion",
]


class Text(HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.text, self.tags = "", []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("text", NASTY)
@pytest.mark.parametrize("form", [plain, code])
def test_text_of_others_is_shown_and_not_interpreted(text, form):
    markdown = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    parser = Text()
    parser.feed(markdown.render(f"| a | b |\n|---|---|\n| {form(text)} | end |"))
    assert set(parser.tags) <= {"table", "thead", "tbody", "tr", "th", "td", "code"}
    assert " ".join(parser.text.split()) == f"a b {' '.join(text.split())} end"


def test_names_from_data_cannot_write_the_card(repository, tmp_path):
    folder = shutil.copytree(repository, tmp_path / "model")
    results = copy.deepcopy(read_results(folder / "results.json"))
    nasty = '<img src=x onerror="alert(1)"> | **b** [c](d)\n---\nlicense: other'
    for section in ("pretraining", "evaluation"):
        results[section]["dataset"] = nasty
        results[section]["split"] = nasty
    (folder / "results.json").write_text(json.dumps(results))
    text = render_card(folder)
    body = text.split("\n---\n", 1)[1]
    assert "<img" not in body and "**b**" not in body and "[c](d)" not in body
    front = yaml.safe_load(text.split("\n---\n", 1)[0].removeprefix("---\n"))
    assert front["license"] == "apache-2.0"
    assert front["model-index"][0]["results"][0]["dataset"]["name"] == nasty.rsplit("/", 1)[-1]
