"""A smaller copy of a data set as parquet files in the Hub's layout, for people to stream less.

What a quality costs, measured on a full-size image of each of ImageNet-100's classes (11.4 MB in all) at 256 px:

    JPEG quality   bytes of the copy   difference to the original, grey levels
    95             1/2.7               5.2
    90             1/3.7               5.6
    85             1/4.5               5.9
    75             1/5.8               6.6

The difference is the root of the mean square over random crops at 224 px, as training sees them; resizing alone makes
4.1 of it. With colours at full resolution in place of half (4:2:0), 75 takes 1/4.9 of the bytes.
"""

import io
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import datasets
import PIL.Image
from datasets.arrow_writer import ParquetWriter

from hf_ssl.data.decoding import UndecodableImageError, decode_upright, encoded_bytes
from hf_ssl.data.inspection import Broken
from hf_ssl.data.rows import read_rows, reason_of, stated_rows
from hf_ssl.data.sources import ImageSource

JPEG_QUALITY = 75
SUBSAMPLING = "4:2:0"
SHARD_SIZE_MB = 500
# Rows that a reader gets and holds at once; `datasets` aims at three times as much.
ROW_GROUP_BYTES = 32 * 2**20
# What the format can hold, less a little that libjpeg keeps for itself.
LONGEST_JPEG_SIDE = 65_500


@dataclass
class ResizedSplit:
    """What became of one split.

    Attributes:
        split: its name.
        rows: rows of the copy.
        resized: those whose image was made smaller; the others are as they were, byte for byte.
        too_long: those whose shorter side is still too long, as a JPEG of their proportions cannot be made.
        dropped: rows of the source that were left out, as their image cannot be decoded.
        source_bytes: of the images in `rows` before.
        bytes: of the images in `rows` now.
        arrow_bytes: of the rows in memory, what the Hub calls num_bytes.
        shards: the parquet files, relative to the copy's folder.
    """

    split: str
    rows: int = 0
    resized: int = 0
    too_long: int = 0
    dropped: list[Broken] = field(default_factory=list)
    source_bytes: int = 0
    bytes: int = 0
    arrow_bytes: int = 0
    shards: list[str] = field(default_factory=list)


def copy_features(source: ImageSource) -> datasets.Features:
    """The columns of a copy: `image`, and `label` where the source has labels, with its classes."""
    features = {"image": datasets.Image()}
    if source.label_column is not None:
        features["label"] = source.dataset.features[source.label_column]
    return datasets.Features(features)


def write_resized_split(
    source: ImageSource,
    folder: Path,
    short_side: int,
    *,
    jpeg_quality: int = JPEG_QUALITY,
    shard_size_mb: int = SHARD_SIZE_MB,
    num_images: int | None = None,
    num_threads: int = 2,
) -> ResizedSplit:
    """Write one split as FOLDER/data/SPLIT-00000-of-00005.parquet and so on, its rows in the source's order.

    Images whose shorter side is at most `short_side` keep their bytes, as do those that would still be too long for a
    JPEG. Others are decoded as `decode_upright` does, resized in their aspect ratio with Lanczos' filter, and encoded
    as JPEG, greyscale as greyscale; metadata and colour profiles are not taken along, colours are not converted.
    Rows whose image cannot be decoded are left out. The same source gives the same bytes.

    Args:
        source: the split, from `open_splits`.
        folder: the copy's folder.
        short_side: greatest length of the shorter side in pixels.
        jpeg_quality: 1 to 95, of resized images.
        shard_size_mb: size of a shard in megabytes, exceeded by at most one image.
        num_images: copy the first rows of the source alone; all if None.
        num_threads: number of threads that decode and encode.

    Raises:
        ValueError: an argument is out of its range, no image can be decoded, or a stream ends before its end.
    """
    for name, value, greatest in (
        ("short_side", short_side, LONGEST_JPEG_SIDE),
        ("jpeg_quality", jpeg_quality, 95),
        ("shard_size_mb", shard_size_mb, None),
        ("num_images", num_images, None),
        ("num_threads", num_threads, None),
    ):
        if value is not None and (value < 1 or (greatest is not None and value > greatest)):
            limits = "at least 1" if greatest is None else f"from 1 to {greatest}"
            raise ValueError(f"{name}={value} was given, but it must be {limits}.")
    copied = ResizedSplit(source.split)

    def shrink(image: dict | None) -> tuple[bytes, int, bool, bool] | str:
        return _shrink(image, source.root, short_side, jpeg_quality)

    position = 0
    with (
        closing(_ShardWriter(folder, source.split, copy_features(source), shard_size_mb * 10**6)) as writer,
        closing(read_rows(source, shrink, num_rows=num_images, num_threads=num_threads)) as rows,
    ):
        for image, label, shrunk in rows:
            if isinstance(shrunk, str):
                copied.dropped.append(Broken(position, shrunk))
            else:
                data, source_bytes, is_resized, is_too_long = shrunk
                copied.rows += 1
                copied.resized += is_resized
                copied.too_long += is_too_long
                copied.source_bytes += source_bytes
                copied.bytes += len(data)
                writer.add(data, _file_name(image["path"], is_resized), label)
            position += 1
        writer.end_shard()
    stated = stated_rows(source)
    if num_images is None and stated not in (None, position):
        raise ValueError(
            f"{source.name!r} ({source.split}) gave {position:,} rows, where it states {stated:,}: try again, or give "
            "--num_images to copy a part."
        )
    if not copied.rows:
        raise ValueError(
            f"Not one of the {position:,} images of {source.name!r} ({source.split}) can be decoded: see why with "
            "`hf-ssl data`, and choose other splits or another image_column."
        )
    copied.shards, copied.arrow_bytes = writer.name_shards(), writer.arrow_bytes
    return copied


def _shrink(
    image: dict | None, root: str | None, short_side: int, jpeg_quality: int
) -> tuple[bytes, int, bool, bool] | str:
    """The new bytes, the number of the old ones, whether it was resized, or is too long; or why it is broken."""
    try:
        data = encoded_bytes(image, root)
        decoded = decode_upright(data)
    except UndecodableImageError as error:
        return reason_of(error)
    picture, (height, width) = decoded.rgb, decoded.size
    scale = short_side / min(height, width)
    size = max(short_side, round(scale * width)), max(short_side, round(scale * height))
    if scale >= 1 or max(size) > LONGEST_JPEG_SIDE:
        return data, len(data), False, scale < 1
    if decoded.mode == "L":
        picture = picture.convert("L")
    file = io.BytesIO()
    picture.resize(size, PIL.Image.Resampling.LANCZOS).save(
        file, "JPEG", quality=jpeg_quality, subsampling=SUBSAMPLING, optimize=True
    )
    return file.getvalue(), len(data), True, False


def _file_name(path: str | None, is_resized: bool) -> str | None:
    """The name of an image file without its folder, which says where it lay on somebody's machine."""
    if path is None:
        return None
    name = PurePosixPath(path.replace("\\", "/")).name
    return PurePosixPath(name).stem + ".jpg" if is_resized and name else name


class _ShardWriter:
    """Rows to parquet files of about one size, through `datasets`' writer.

    Args:
        folder: of the copy.
        split: name of the split.
        features: of the rows.
        shard_bytes: of images, from which a shard is full.
    """

    def __init__(self, folder: Path, split: str, features: datasets.Features, shard_bytes: int):
        self.folder, self.split, self.features, self.shard_bytes = folder, split, features, shard_bytes
        self.paths: list[Path] = []
        self.writer: ParquetWriter | None = None
        self.images: list[dict] = []
        self.labels: list[int | None] = []
        self.group_bytes = self.written_bytes = self.arrow_bytes = 0

    def add(self, data: bytes, name: str | None, label: int | None) -> None:
        if self.writer is None:
            self._begin_shard()
        self.images.append({"bytes": data, "path": name})
        self.labels.append(label)
        self.group_bytes += len(data)
        is_full = self.written_bytes + self.group_bytes >= self.shard_bytes
        if is_full or self.group_bytes >= ROW_GROUP_BYTES:
            self._write_group()
        if is_full:
            self.end_shard()

    def close(self) -> None:
        """Let go of a shard that was not ended, which is then of no use."""
        if self.writer is not None:
            self.writer.close()

    def end_shard(self) -> None:
        """Write what is left of the present shard, if there is one."""
        if self.writer is None:
            return
        if self.images:
            self._write_group()
        _, arrow_bytes = self.writer.finalize()
        self.arrow_bytes += arrow_bytes
        self.writer = None

    def name_shards(self) -> list[str]:
        """Give the shards their names, now that their number is known, and return them."""
        names = []
        for index, path in enumerate(self.paths):
            path.rename(path.with_name(f"{self.split}-{index:05d}-of-{len(self.paths):05d}.parquet"))
            names.append(f"data/{self.split}-{index:05d}-of-{len(self.paths):05d}.parquet")
        return names

    def _begin_shard(self) -> None:
        path = self.folder / "data" / f"{self.split}-{len(self.paths):05d}.partial"
        path.parent.mkdir(parents=True, exist_ok=True)
        self.writer = ParquetWriter(path=str(path), features=self.features)
        self.paths.append(path)
        self.written_bytes = 0

    def _write_group(self) -> None:
        columns = {"image": self.images, "label": self.labels}
        self.writer.write_batch({name: columns[name] for name in self.features}, writer_batch_size=len(self.images))
        self.written_bytes += self.group_bytes
        self.images, self.labels, self.group_bytes = [], [], 0
