"""Images in a seeded order: where they come from, how they are decoded, which rank sees which and when."""

from hf_ssl.data.decoding import UndecodableImageError, decode_image
from hf_ssl.data.loader import ImageBatch, ImageLoader
from hf_ssl.data.sources import ImageSource, open_source, wrap_dataset
from hf_ssl.data.textures import make_textures

__all__ = [
    "ImageBatch",
    "ImageLoader",
    "ImageSource",
    "UndecodableImageError",
    "decode_image",
    "make_textures",
    "open_source",
    "wrap_dataset",
]
