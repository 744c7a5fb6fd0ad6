"""G2, G3, G8, G9."""

from collections.abc import Iterator

from hf_ssl.benchmark.measuring import Experiment, NotMeasuredError, Options, Row, require_cuda


def _x(options: Options) -> Iterator[Experiment]:
    require_cuda()
    raise NotMeasuredError("in work")
    yield


ROWS = tuple(Row(name, "end-to-end", name, _x) for name in ("G2", "G3", "G8", "G9"))
