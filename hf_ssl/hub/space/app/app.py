"""The app of a Space: what models restore of a picture, which images they find near it, which classes they name.

    python app.py

The models, an index of training images and hf_ssl itself lie beside this file, where `hf-ssl space` put them.
"""

import json
from pathlib import Path
from typing import Any

import gradio as gr
import torch

from hf_ssl.data import UndecodableImageError
from hf_ssl.hub.card.markdown import code, plain
from hf_ssl.hub.space import gallery
from hf_ssl.hub.space.demo_model import DemoModel
from hf_ssl.hub.space.image_index import ImageIndex
from hf_ssl.hub.space.uploads import read_upload

NUM_NEIGHBORS = 12
NUM_CLASSES = 5
# Fonts that every system has, so that nothing is fetched from elsewhere.
THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
CSS = f"""{gallery.CSS}
.room > div {{ padding: 0 !important; }}
.upload img {{ width: 100%; height: 100%; object-fit: contain; }}
@media (max-width: 640px) {{ .tab-container button {{ padding: 0 7px !important; font-size: 13px; }} }}
"""


def build_app(folder: Path) -> gr.Blocks:
    """The interface of a Space folder, whose models are loaded here, once."""
    about = json.loads((folder / "space.json").read_text(encoding="utf-8"))
    models = [DemoModel(folder / "models" / name) for name in about["models"]]
    index = ImageIndex.read(folder / "index")
    drawing = [model for model in models if model.illustration_columns]
    examples = [str(path) for path in sorted((folder / "examples").glob("*.jpg"))]

    # An upload comes as a file (preprocess=False): the models decode it themselves, as their probes did.
    def look(upload: dict[str, Any] | None, percentage: float, seed: int) -> list[Any]:
        views = read_views(upload, models, uploads)
        if views is None:
            return [None] * len(outputs)
        neighbors, classes = [], []
        for model, view in zip(models, views, strict=True):
            features, scores = model.encode(view)
            neighbors.append(gallery.show_neighbors(index.nearest(model.name, features[0], NUM_NEIGHBORS)))
            classes.append(dict(model.name_classes(scores[0], NUM_CLASSES)))
        return [*neighbors, *classes, *draw(upload, percentage, seed)]

    def draw(upload: dict[str, Any] | None, percentage: float, seed: int) -> list[str | None]:
        views = read_views(upload, drawing, uploads)
        if views is None:
            return [None] * len(drawing)
        illustrations = []
        for model, view in zip(drawing, views, strict=True):
            share = None if model.mask_percentage is None else round(percentage)
            pictures = model.reconstruct(view, share, seed)
            illustrations.append(gallery.show_illustration(pictures, model.illustration_columns))
        return illustrations

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
                    value=examples[0],
                    label="Your picture",
                    sources=["upload", "clipboard"],
                    height=300,
                    buttons=[],
                    elem_classes="upload",
                )
                gr.Examples(examples, upload, label="Examples")
            with gr.Column(scale=3, min_width=320), gr.Tabs(selected="draw" if drawing else "nearest"):
                with gr.Tab("Reconstruction", id="draw", visible=bool(drawing)):
                    percentage = build_slider([model for model in drawing if model.mask_percentage is not None])
                    illustrations = [build_html(model) for model in drawing]
                    another = gr.Button("Another mask", size="md")
                with gr.Tab("Nearest images", id="nearest"):
                    gr.Markdown(
                        f"Of {len(index.pictures):,} images of {plain(index.dataset)}, split {code(index.split)}, "
                        "those whose features are most like the picture's, by the cosine of the angle between them."
                    )
                    with gr.Row():
                        neighbors = [build_html(model) for model in models]
                with gr.Tab("Classes"):
                    gr.Markdown(
                        "What a linear classifier reads off the frozen features. **The scores are not calibrated**: "
                        "90 % does not mean right nine times in ten, and one of the classes is named whatever the "
                        "picture shows."
                    )
                    with gr.Row():
                        classes = [build_classes(model) for model in models]

        uploads = Path(upload.GRADIO_CACHE)
        outputs = [*neighbors, *classes, *illustrations]
        inputs = [upload, percentage, seed]
        gr.on([app.load, upload.change], look, inputs, outputs, preprocess=False, show_progress="minimal")
        # While the slider moves, its last position is drawn next.
        percentage.change(
            draw, inputs, illustrations, preprocess=False, show_progress="hidden", trigger_mode="always_last"
        )
        another.click(draw_another, inputs, [seed, *illustrations], preprocess=False, show_progress="hidden")
    return app


def read_views(upload: dict[str, Any] | None, models: list[DemoModel], uploads: Path) -> list[torch.Tensor] | None:
    """What each model sees of the upload; None, with a message, for a file that is no picture."""
    if upload is None:
        return None
    try:
        data = read_upload(upload["path"], uploads)
        return [model.view_picture(data) for model in models]
    except UndecodableImageError:
        gr.Warning("This file is no picture that can be read; take a JPEG or a PNG, for example.")
        return None


def describe_models(models: list[DemoModel]) -> str:
    """Which models these are, in Markdown."""
    backbones = ", ".join(f"{plain(model.method)} ({code(model.backbone)})" for model in models)
    sizes = " or ".join(dict.fromkeys(f"{model.config.image_size} px" for model in models))
    return (
        f"Encoders pretrained without labels: {backbones}. Drop a picture or take an example; they see its central "
        f"square at {sizes}."
    )


def build_slider(masking: list[DemoModel]) -> gr.Slider:
    """The mask percentage, within what every model allows; hidden if no model masks."""
    if not masking:
        return gr.Slider(visible=False)
    lowest, highest = zip(*(model.mask_percentages for model in masking), strict=True)
    return gr.Slider(
        max(lowest), min(highest), masking[0].mask_percentage, step=1, label="Share of the patches that is masked (%)"
    )


def build_html(model: DemoModel) -> gr.HTML:
    """Room for pictures below the model's name."""
    with gr.Column(min_width=280):
        gr.Markdown(f"**{plain(model.method)}** · {plain(model.name)}")
        return gr.HTML(elem_classes="room")


def build_classes(model: DemoModel) -> gr.Label:
    """Room for the classes that a model names, above how often it was right."""
    with gr.Column(min_width=280):
        label = gr.Label(label=f"{model.method} · {model.name}", num_top_classes=NUM_CLASSES, show_heading=False)
        gr.Markdown(model.describe_accuracy())
    return label


if __name__ == "__main__":
    build_app(Path(__file__).resolve().parent).launch(
        theme=THEME, css=CSS, max_file_size="20mb", footer_links=["gradio"], run_history=False
    )
