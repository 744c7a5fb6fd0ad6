"""Decode once: a whole data set as uint8 squares, in memory or in files."""

from hf_ssl.data.cache.choice import CACHES, choose_cache
from hf_ssl.data.cache.decoded import DecodedImages, decode_all, required_bytes
from hf_ssl.data.cache.disk import open_disk_cache

__all__ = ["CACHES", "DecodedImages", "choose_cache", "decode_all", "open_disk_cache", "required_bytes"]
