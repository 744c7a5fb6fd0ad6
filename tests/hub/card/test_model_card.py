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

from hf_ssl.evaluation.results import read_results, write_results
from hf_ssl.hub.card.markdown import code, plain
from hf_ssl.hub.card.model_card import compare_intervals, render_card, write_card

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
    [row] = [row for row in results["evaluation"]["results"] if row["encoder"] == "pretrained"]
    assert {result.metric_type: result.metric_value for result in data.eval_results} == {
        "accuracy": row["accuracy"],
        "top5_accuracy": row["top5_accuracy"],
        "f1": row["macro_f1"],
    }
    assert all("linear probe" in result.metric_name for result in data.eval_results)
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
    for said in ("1 h 02 min", "16,000", "hf-ssl probe", "pictures/loss.png", "pictures/illustration.png"):
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
