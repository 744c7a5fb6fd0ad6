"""Views of images, made on the device a batch at a time: sample every parameter once, then apply them."""

from .policy import ViewPolicy
from .rendering import render_view
from .sampling import ViewParameters, center_view, sample_view
from .views import make_views

__all__ = ["ViewParameters", "ViewPolicy", "center_view", "make_views", "render_view", "sample_view"]
