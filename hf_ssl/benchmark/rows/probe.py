"""C11: the linear probe on features computed once, against a schedule that encodes the images in every epoch."""

from collections.abc import Iterator

from hf_ssl.benchmark.measuring import Experiment, NotMeasuredError, Options, Row


def _not_written(options: Options) -> Iterator[Experiment]:
    raise NotMeasuredError("the row of the probe is not written yet")


ROWS = (Row("C11", "probe", "linear probe, wall clock to equal accuracy", _not_written),)
