"""Pictures with captions as HTML that carries them along, and in which text from data sets stays text."""

import base64
import io
from collections.abc import Sequence
from html import escape

from PIL import Image

from hf_ssl.hub.space.image_index import Neighbor

# For what is written below. Reconstructions are scaled up with sharp pixels; photographs are not.
CSS = """
.figures { display: grid; gap: 8px 10px; }
.figures.neighbors { grid-template-columns: repeat(auto-fill, minmax(88px, 1fr)); }
.figures.illustration { grid-template-columns: repeat(auto-fit, minmax(90px, 1fr)); max-width: 1100px; }
.figures figure { margin: 0; }
.figures img { width: 100%; aspect-ratio: 1; border-radius: 6px; }
.figures.illustration img { image-rendering: pixelated; }
.figures figcaption { margin-top: 4px; font-size: 13px; line-height: 1.3; overflow-wrap: anywhere; }
.figures figcaption span {
  display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 3; overflow: hidden;
}
@media (max-width: 640px) { .figures figcaption { font-size: 11.5px; } }
"""


def show_neighbors(neighbors: Sequence[Neighbor]) -> str:
    """Images of the index in this order, each above its similarity and its class."""
    figures = [
        _figure(neighbor.picture, "jpeg", f"{neighbor.similarity:.3f}", neighbor.class_name or "")
        for neighbor in neighbors
    ]
    return f'<div class="figures neighbors">{"".join(figures)}</div>'


def show_illustration(pictures: Sequence[Image.Image], titles: Sequence[str]) -> str:
    """Pictures side by side above their titles."""
    figures = []
    for picture, title in zip(pictures, titles, strict=True):
        file = io.BytesIO()
        picture.save(file, "PNG")
        figures.append(_figure(file.getvalue(), "png", title, ""))
    return f'<div class="figures illustration">{"".join(figures)}</div>'


def _figure(picture: bytes, kind: str, caption: str, detail: str) -> str:
    source = f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
    alternative = escape(f"{caption} {detail}".strip())
    return (
        f'<figure><img src="{source}" alt="{alternative}"><figcaption><b>{escape(caption)}</b>'
        f"<span>{escape(detail)}</span></figcaption></figure>"
    )
