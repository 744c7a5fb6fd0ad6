"""The app of a Space: what models restore of a picture, which images they find near it, which classes they name.

    python app.py

The models, an index of training images and hf_ssl itself lie beside this file, where `hf-ssl space` put them.
"""

import io
import json
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from PIL import Image

from hf_ssl.data import UndecodableImageError
from hf_ssl.hub.card.markdown import code, plain
from hf_ssl.hub.space.demo_model import DemoModel
from hf_ssl.hub.space.image_index import ImageIndex, Neighbor

NUM_NEIGHBORS = 8
NUM_CLASSES = 5
# Fonts that every system has, so that nothing is fetched from elsewhere.
THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
CSS = """
.pixels img { image-rendering: pixelated; }
"""


def build_app(folder: Path) -> gr.Blocks:
    """The interface of a Space folder, whose models are loaded here, once."""
    about = json.loads((folder / "space.json").read_text(encoding="utf-8"))
    models = [DemoModel(folder / "models" / name) for name in about["models"]]
    index = ImageIndex.read(folder / "index")
    drawing = [model for model in models if model.illustration_columns]
    examples = sorted((folder / "examples").glob("*.jpg"))

    # An upload comes as it is (preprocess=False): the models decode it themselves, as their probes did.
    def look(upload: dict[str, Any] | None, percentage: float, seed: int) -> list[Any]:
        views = read_views(upload, models)
        if views is None:
            return [None] * len(outputs)
        galleries, classes = [], []
        for model, view in zip(models, views, strict=True):
            features, scores = model.encode(view)
            galleries.append([show(neighbor) for neighbor in index.nearest(model.name, features[0], NUM_NEIGHBORS)])
            classes.append(dict(model.name_classes(scores[0], NUM_CLASSES)))
        return [*galleries, *classes, *draw(upload, percentage, seed)]

    def draw(upload: dict[str, Any] | None, percentage: float, seed: int) -> list[Image.Image | None]:
        views = read_views(upload, drawing)
        if views is None:
            return [None] * len(pictures)
        return [
            picture
            for model, view in zip(drawing, views, strict=True)
            for picture in model.reconstruct(view, None if model.mask_percentage is None else round(percentage), seed)
        ]

    def draw_another(upload: dict[str, Any] | None, percentage: float, seed: int) -> list[Any]:
        if upload is None:
            gr.Warning("There is no picture to mask; drop one first, or take an example.")
        return [seed + 1, *draw(upload, percentage, seed + 1)]

    with gr.Blocks(title=about["title"], analytics_enabled=False) as app:
        seed = gr.State(0)
        gr.Markdown(f"# {plain(about['title'])}\n\n{describe_models(models)}")
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                upload = gr.Image(
                    value=str(examples[0]),
                    label="Your picture",
                    sources=["upload", "clipboard"],
                    height=300,
                    buttons=[],
                    elem_classes="pixels",
                )
                gr.Examples([str(path) for path in examples], upload, label="Examples, from the test images")
            with gr.Column(scale=3, min_width=320), gr.Tabs():
                with gr.Tab("Reconstruction", visible=bool(drawing)):
                    masking = [model for model in drawing if model.mask_percentage is not None]
                    with gr.Row(equal_height=True):
                        percentage = build_slider(masking)
                        another = gr.Button("Another mask", scale=0, min_width=140)
                    pictures = [picture for model in drawing for picture in build_pictures(model)]
                with gr.Tab("Nearest images"):
                    gr.Markdown(
                        f"Of {len(index.pictures):,} images of {plain(index.dataset)}, split {code(index.split)}, those "
                        "whose features are most like the picture's, by the cosine of the angle between them."
                    )
                    with gr.Row():
                        galleries = [
                            gr.Gallery(label=name(model), columns=4, object_fit="contain", format="png", buttons=[])
                            for model in models
                        ]
                with gr.Tab("Classes"):
                    gr.Markdown(
                        "What a linear classifier reads off the frozen features. **The scores are not calibrated**: "
                        "90 % does not mean right nine times in ten, and one of its classes is named whatever the "
                        "picture shows."
                    )
                    with gr.Row():
                        classes = [build_classes(model) for model in models]

        outputs = [*galleries, *classes, *pictures]
        inputs = [upload, percentage, seed]
        gr.on([app.load, upload.change], look, inputs, outputs, preprocess=False, show_progress="minimal")
        # While the slider moves, its last position is drawn next.
        percentage.change(draw, inputs, pictures, preprocess=False, show_progress="hidden", trigger_mode="always_last")
        another.click(draw_another, inputs, [seed, *pictures], preprocess=False, show_progress="hidden")
    return app


def read_views(upload: dict[str, Any] | None, models: list[DemoModel]) -> list[torch.Tensor] | None:
    """What each model sees of the upload; None, with a message, for a file that is no picture."""
    if upload is None:
        return None
    data = Path(upload["path"]).read_bytes()
    try:
        return [model.view_picture(data) for model in models]
    except UndecodableImageError:
        gr.Warning("This file is no picture that can be read; take a JPEG or a PNG, for example.")
        return None


def show(neighbor: Neighbor) -> tuple[Image.Image, str]:
    """A picture of a gallery and what stands below it."""
    caption = f"{neighbor.similarity:.3f}"
    if neighbor.class_name is not None:
        caption += f" · {neighbor.class_name}"
    return Image.open(io.BytesIO(neighbor.picture)), caption


def name(model: DemoModel) -> str:
    """A model's method and name."""
    return f"{model.method} · {model.name}"


def describe_models(models: list[DemoModel]) -> str:
    """Which models these are, in Markdown."""
    backbones = ", ".join(f"{plain(model.method)} ({code(model.backbone)})" for model in models)
    sizes = " or ".join(dict.fromkeys(f"{model.config.image_size} px" for model in models))
    return (
        f"Encoders pretrained without labels: {backbones}. Drop a picture or take an example; the models see its "
        f"central square at {sizes}."
    )


def build_slider(masking: list[DemoModel]) -> gr.Slider:
    """The mask percentage, within what every model allows; hidden if no model masks."""
    if not masking:
        return gr.Slider(visible=False)
    lowest, highest = zip(*(model.mask_percentages for model in masking), strict=True)
    return gr.Slider(
        max(lowest), min(highest), masking[0].mask_percentage, step=1, label="Share of the patches that is masked (%)"
    )


def build_pictures(model: DemoModel) -> list[gr.Image]:
    """A row of what one model draws."""
    gr.Markdown(f"**{plain(name(model))}**")
    with gr.Row():
        return [
            gr.Image(label=title, format="png", interactive=False, buttons=[], min_width=140, elem_classes="pixels")
            for title in model.illustration_columns
        ]


def build_classes(model: DemoModel) -> gr.Label:
    """The classes that one model names, and how often it was right."""
    with gr.Column(min_width=260):
        label = gr.Label(label=name(model), num_top_classes=NUM_CLASSES, show_heading=False)
        low, high = model.result["accuracy_ci95"]
        gr.Markdown(
            f"Measured: right on {model.result['accuracy']:.1%} of {model.evaluation['num_test']:,} test images of "
            f"{plain(model.evaluation['dataset'])} (95 % interval {low:.1%} to {high:.1%}); its five first answers hold "
            f"the right one on {model.result['top5_accuracy']:.1%}. Chance is {1 / model.evaluation['num_classes']:.1%}."
        )
    return label


if __name__ == "__main__":
    build_app(Path(__file__).resolve().parent).launch(
        theme=THEME, css=CSS, max_file_size="20mb", footer_links=["gradio"], run_history=False
    )
