"""C1 to C4: views from JPEGs, the whole loader against lightly's, albumentations' and torchvision's on PIL."""

from collections.abc import Iterator

from hf_ssl.benchmark.measuring import Experiment, NotMeasuredError, Options, Row


def _not_written(options: Options) -> Iterator[Experiment]:
    raise NotMeasuredError("the rows of the loader are not written yet")


ROWS = (
    Row("C1", "loader", "two SimCLR views from a 256 px JPEG to 224 px, the whole loader", _not_written),
    Row("C2", "loader", "two SimCLR views from a 256 px JPEG to 224 px on one thread", _not_written),
    Row("C3", "loader", "two SimCLR views at 64 px, first epoch and decoded once", _not_written),
    Row("C4", "loader", "MAE's loader at 224 px", _not_written),
)
