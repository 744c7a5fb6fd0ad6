"""What is in an image data set: rows, classes, sizes, broken images, duplicates, leaks between its splits."""

import hashlib
import itertools
import json
from array import array
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from hf_ssl.data.contact_sheet import ContactSheet
from hf_ssl.data.decoding import UndecodableImageError, decode_upright, encoded_bytes
from hf_ssl.data.files import write_whole
from hf_ssl.data.rows import printable, read_rows, reason_of, stated_rows
from hf_ssl.data.sources import ImageSource, int64_label

UPRIGHT = 1
LISTED = 10
DIGEST_BYTES = 16


@dataclass(frozen=True)
class Broken:
    """A row without an image that can be decoded."""

    row: int
    reason: str


@dataclass(frozen=True)
class Spread:
    """Least, median and greatest of some numbers."""

    min: float
    median: float
    max: float


@dataclass
class SplitReport:
    """What is in one split.

    Attributes:
        split: its name.
        rows: rows that were read.
        images: those of them that can be decoded; all that follows is about these.
        stated_rows: rows that the data set states, None where it does not.
        bytes: of all images as they are stored.
        width: in pixels, the right way up; None without an image.
        height: as `width`.
        formats: images by file format, such as {"JPEG": 90, "PNG": 10}.
        modes: images by Pillow's mode, such as {"RGB": 96, "L": 4}.
        turned: images that are stored turned or mirrored, with an EXIF entry that says so.
        class_images: images of each class, in the order of labels; None for data without labels.
        unlabelled: images with the label −1, or none, where others have one.
        unknown_labels: images whose label is the number of no class.
        broken: rows without an image that can be decoded.
        duplicates: images that repeat the bytes of an earlier one.
        contradictions: images that repeat the bytes of an earlier one and have another label.
        duplicate_rows: the first pairs (row, earlier row) of `duplicates`.
    """

    split: str
    rows: int = 0
    images: int = 0
    stated_rows: int | None = None
    bytes: int = 0
    width: Spread | None = None
    height: Spread | None = None
    formats: dict[str, int] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)
    turned: int = 0
    class_images: dict[str, int] | None = None
    unlabelled: int = 0
    unknown_labels: int = 0
    broken: list[Broken] = field(default_factory=list)
    duplicates: int = 0
    contradictions: int = 0
    duplicate_rows: list[tuple[int, int]] = field(default_factory=list)


@dataclass(frozen=True)
class Leak:
    """Images of one split that are in an earlier one, byte for byte.

    Attributes:
        split: the split that repeats images.
        of: the split that has them, too.
        images: how many of `split`'s images are in `of`.
        rows: the first pairs (row in `split`, row in `of`).
    """

    split: str
    of: str
    images: int
    rows: list[tuple[int, int]]


@dataclass(frozen=True)
class Inspection:
    """What is in a data set.

    Attributes:
        dataset: what was opened: a Hub id, a folder or "embedded".
        revision: of the Hub data set, None if none was named.
        splits: one report for each split.
        leaks: images that two splits share.
        warnings: what deserves attention, one sentence each.
    """

    dataset: str
    revision: str | None
    splits: list[SplitReport]
    leaks: list[Leak]
    warnings: list[str]


@dataclass(frozen=True)
class _Look:
    """What one image shows."""

    num_bytes: int
    digest: bytes
    height: int
    width: int
    format: str
    mode: str
    turned: bool


class _Columns:
    """The numbers of a split's images that must be kept to the end: 44 bytes for each."""

    def __init__(self):
        self.rows, self.labels = array("q"), array("q")
        self.widths, self.heights = array("i"), array("i")
        self.digests = bytearray()

    def append(self, row: int, label: int | None, look: _Look) -> None:
        self.rows.append(row)
        self.labels.append(int64_label(label))
        self.widths.append(look.width)
        self.heights.append(look.height)
        self.digests += look.digest


def inspect_dataset(
    sources: Sequence[ImageSource],
    *,
    num_images: int | None = None,
    num_threads: int = 2,
    sheet: ContactSheet | None = None,
) -> Inspection:
    """Read all splits once and decode every image, as training would.

    Args:
        sources: the splits of one data set, from `open_splits`.
        num_images: read the first rows of each split alone; all if None.
        num_threads: number of decoding threads.
        sheet: is shown the images of the first split.

    Raises:
        ValueError: if `num_images` or `num_threads` is not positive.
    """
    for name, value in (("num_images", num_images), ("num_threads", num_threads)):
        if value is not None and value < 1:
            raise ValueError(f"{name}={value} was given, but it must be at least 1.")
    reports, columns = [], []
    for source in sources:
        report, numbers = _inspect_split(source, num_images, num_threads, sheet if source is sources[0] else None)
        reports.append(report)
        columns.append(numbers)
    leaks = _find_duplicates(reports, columns)
    name, revision = sources[0].name, sources[0].revision
    return Inspection(name, revision, reports, leaks, _find_warnings(reports, leaks, whole=num_images is None))


def _look_at(image: dict | None, root: str | None) -> _Look | str:
    """What an image shows, or why it is broken."""
    try:
        data = encoded_bytes(image, root)
        # To a single pixel: everything is read, and a JPEG's transforms are done at an eighth of its size.
        decoded = decode_upright(data, draft_size=1)
    except UndecodableImageError as error:
        return reason_of(error)
    digest = hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()
    turned = decoded.orientation != UPRIGHT
    return _Look(len(data), digest, *decoded.size, decoded.format, decoded.mode, turned)


def _inspect_split(
    source: ImageSource, num_images: int | None, num_threads: int, sheet: ContactSheet | None
) -> tuple[SplitReport, _Columns]:
    report, columns = SplitReport(source.split, stated_rows=stated_rows(source)), _Columns()
    formats, modes = Counter(), Counter()
    look_at = partial(_look_at, root=source.root)
    with closing(read_rows(source, look_at, num_rows=num_images, num_threads=num_threads)) as rows:
        for row, (image, label, look) in enumerate(rows):
            report.rows += 1
            if isinstance(look, str):
                report.broken.append(Broken(row, look))
                continue
            columns.append(row, label, look)
            report.bytes += look.num_bytes
            report.turned += look.turned
            formats[look.format] += 1
            modes[look.mode] += 1
            if sheet is not None:
                sheet.show(image, label, source.root)
    report.images = len(columns.rows)
    report.formats, report.modes = dict(formats.most_common()), dict(modes.most_common())
    if report.images:
        report.width, report.height = _spread(columns.widths), _spread(columns.heights)
    if source.label_column is not None:
        _count_classes(report, np.array(columns.labels), source.class_names)
    return report, columns


def _spread(numbers: Sequence[int]) -> Spread:
    return Spread(int(np.min(numbers)), float(np.median(numbers)), int(np.max(numbers)))


def _count_classes(report: SplitReport, labels: np.ndarray, class_names: list[str] | None) -> None:
    counts = Counter(labels.tolist())
    report.unlabelled = counts.pop(-1, 0)
    if class_names is None:
        report.class_images = {str(label): counts[label] for label in sorted(counts)}
        return
    report.class_images = {name: counts.pop(label, 0) for label, name in enumerate(class_names)}
    report.unknown_labels = counts.total()


def _find_duplicates(reports: Sequence[SplitReport], columns: Sequence[_Columns]) -> list[Leak]:
    """Fill in the reports' duplicates and return what splits share."""
    digests = b"".join(bytes(numbers.digests) for numbers in columns)
    _, identities = np.unique(np.frombuffer(digests, np.dtype((np.void, DIGEST_BYTES))), return_inverse=True)
    bounds = np.cumsum([0, *(len(numbers.rows) for numbers in columns)])
    by_split = [identities[start:end] for start, end in itertools.pairwise(bounds)]
    leaks = []
    for index, (report, ids) in enumerate(zip(reports, by_split, strict=True)):
        rows, labels = np.array(columns[index].rows), np.array(columns[index].labels)
        _, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
        earlier = first[inverse]
        repeats = np.flatnonzero(earlier != np.arange(len(ids)))
        report.duplicates = len(repeats)
        report.contradictions = int((labels[repeats] != labels[earlier[repeats]]).sum())
        report.duplicate_rows = [(int(rows[i]), int(rows[earlier[i]])) for i in repeats[:LISTED]]
        for other in range(index):
            shared = np.flatnonzero(np.isin(ids, by_split[other]))
            if len(shared):
                found = [int(np.flatnonzero(by_split[other] == ids[i])[0]) for i in shared[:LISTED]]
                pairs = [(int(rows[i]), columns[other].rows[j]) for i, j in zip(shared[:LISTED], found, strict=True)]
                leaks.append(Leak(report.split, reports[other].split, len(shared), pairs))
    return leaks


def _find_warnings(reports: Sequence[SplitReport], leaks: Sequence[Leak], whole: bool) -> list[str]:
    warnings = []
    for report in reports:
        split = printable(report.split)
        if report.broken:
            warnings.append(
                f"{split}: {_count(len(report.broken), 'row')} without an image that can be decoded; training takes "
                "others in their place."
            )
        if report.contradictions:
            warnings.append(f"{split}: {_count(report.contradictions, 'image')} there under another label, too.")
        if report.unknown_labels:
            warnings.append(f"{split}: {_count(report.unknown_labels, 'label')} that no class has.")
        if whole and report.class_images and report.images > report.unlabelled and 0 in report.class_images.values():
            empty = list(report.class_images.values()).count(0)
            warnings.append(f"{split}: {_count(empty, 'class', 'classes')} without an image.")
        if whole and report.stated_rows not in (None, report.rows):
            warnings.append(f"{split}: {report.rows:,} rows, where the data set states {report.stated_rows:,}.")
    warnings += [
        f"{printable(leak.split)}: {_count(leak.images, 'image')} also in {printable(leak.of)}, byte for byte; what "
        "is measured on one is not independent of the other."
        for leak in leaks
    ]
    return warnings


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def write_inspection(inspection: Inspection, path: Path) -> None:
    """Write an inspection as JSON: the fields of `Inspection`, with all broken rows."""
    text = json.dumps(asdict(inspection), indent=2, ensure_ascii=False, allow_nan=False)
    write_whole(path, f"{text}\n".encode())


def format_inspection(inspection: Inspection) -> str:
    """The inspection as text for a terminal: a table with a column for each split, lists, and warnings."""
    splits = inspection.splits
    rows = [["", *(printable(report.split) for report in splits)]]
    rows.append(["images", *(f"{report.images:,}" for report in splits)])
    rows.append(["broken", *(f"{len(report.broken):,}" for report in splits)])
    rows.append(["duplicates", *(f"{report.duplicates:,}" for report in splits)])
    rows.append(["bytes", *(format_bytes(report.bytes) for report in splits)])
    rows.append(["  an image", *(format_bytes(report.bytes / max(report.images, 1)) for report in splits)])
    rows.append(["width, px", *(_format_spread(report.width) for report in splits)])
    rows.append(["height, px", *(_format_spread(report.height) for report in splits)])
    rows.append(["format", *(_format_shares(report.formats) for report in splits)])
    rows.append(["mode", *(_format_shares(report.modes) for report in splits)])
    rows.append(["turned by EXIF", *(f"{report.turned:,}" for report in splits)])
    if splits[0].class_images is not None:
        rows.append(["classes", *(_format_classes(report) for report in splits)])
        rows.append(["images a class", *(_format_spread(_class_spread(report)) for report in splits)])
        rows.append(["unlabelled", *(f"{report.unlabelled:,}" for report in splits)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    revision = f" at {printable(inspection.revision)}" if inspection.revision else ""
    lines = [f"{printable(inspection.dataset)}{revision}", ""]
    lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.append("spreads are least – median – greatest")
    for report in splits:
        lines += _list_details(report)
    for leak in inspection.leaks:
        shared = [f"row {row} is row {other}" for row, other in leak.rows]
        lines += _list(f"{printable(leak.split)}: images that are in {printable(leak.of)}", shared, leak.images)
    if inspection.warnings:
        lines += ["", *(f"warning: {warning}" for warning in inspection.warnings)]
    return "\n".join(lines)


def _list_details(report: SplitReport) -> list[str]:
    split = printable(report.split)
    lines = []
    counts = report.class_images or {}
    least, most = (min(counts.values()), max(counts.values())) if counts else (0, 0)
    if least != most:
        for title, number in (("fewest", least), ("most", most)):
            names = [printable(name) for name, count in counts.items() if count == number]
            lines += _list(f"{split}: classes with the {title} images, {number:,}", names, len(names))
    broken = [f"row {entry.row}: {entry.reason}" for entry in report.broken[:LISTED]]
    lines += _list(f"{split}: broken", broken, len(report.broken))
    repeated = [f"row {row} is row {earlier}" for row, earlier in report.duplicate_rows]
    lines += _list(f"{split}: duplicates", repeated, report.duplicates)
    return lines


def _list(title: str, entries: Sequence[str], total: int) -> list[str]:
    if not total:
        return []
    more = [f"  … and {total - LISTED:,} more"] if total > LISTED else []
    return ["", title, *(f"  {entry}" for entry in entries[:LISTED]), *more]


def format_bytes(number: float) -> str:
    """A number of bytes in decimal units, three digits."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 999.5 or unit == "GB":
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.3g} {unit}"
        number /= 1000
    raise AssertionError("the last unit returns")


def _format_spread(spread: Spread | None) -> str:
    if spread is None:
        return "–"
    if spread.min == spread.max:
        return f"{spread.min:,}"
    return " – ".join(f"{number:,.0f}" for number in (spread.min, spread.median, spread.max))


def _format_shares(counts: dict[str, int]) -> str:
    total = sum(counts.values())
    return ", ".join(f"{name} {_percent(count / total)}" for name, count in counts.items()) or "–"


def _percent(share: float) -> str:
    # 100 % is said of all alone, and 0 % of none.
    return f"{share:.0%}" if share == 1 else f"{min(max(share, 0.001), 0.999):.1%}"


def _class_spread(report: SplitReport) -> Spread | None:
    return _spread(list(report.class_images.values())) if report.class_images else None


def _format_classes(report: SplitReport) -> str:
    present = sum(count > 0 for count in report.class_images.values())
    total = len(report.class_images)
    return f"{total:,}" if present == total else f"{present:,} of {total:,}"
