"""Views of images: every parameter is sampled once, for a whole batch, and applied by one of two executors.

`device` renders batches of float tensors, where a GPU is; `host` renders 8 bit images on the CPU, in the loader's
threads. The same parameters give the same views. Importing this turns off OpenCV's own threads.
"""

from .device.rendering import render_view
from .host.normalize import normalize_views
from .host.views import HostViews
from .policy import ViewPolicy
from .sampling import ViewDraws, ViewParameters, center_view, draw_view, sample_view
from .views import make_views

__all__ = [
    "HostViews",
    "ViewDraws",
    "ViewParameters",
    "ViewPolicy",
    "center_view",
    "draw_view",
    "make_views",
    "normalize_views",
    "render_view",
    "sample_view",
]
