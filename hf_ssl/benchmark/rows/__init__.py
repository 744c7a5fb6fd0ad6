"""The rows of the goals by subject, a file for each: what is measured, against whom, and how both are built."""

from hf_ssl.benchmark.measuring import Row
from hf_ssl.benchmark.rows import end_to_end, gpu, loader, loss, probe, startup, step

# In the order of the goals: C1 to C12, then G1 to G9.
ROWS: tuple[Row, ...] = tuple(
    sorted(
        (
            *loader.ROWS,
            *loss.ROWS,
            *step.ROWS,
            *probe.ROWS,
            *startup.ROWS,
            *gpu.ROWS,
            *end_to_end.ROWS,
        ),
        key=lambda row: (row.name[0], int(row.name[1:])),
    )
)
