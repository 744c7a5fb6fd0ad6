"""`hf-ssl evaluate`: a run's frozen encoder by a linear probe and by kNN. `hf-ssl probe` is its earlier name."""

from collections.abc import Sequence

SUMMARY = "evaluate a run: linear probe and kNN on its frozen encoder, beside a random one and raw pixels"
EXAMPLES = (
    "hf-ssl evaluate runs/simclr_report",
    "hf-ssl evaluate runs/mae_in100 --crop_fraction 0.875 --mixed_precision bf16",
    "hf-ssl evaluate runs/simclr_report --config probe_sgd --no_knn",
)


def run(argv: Sequence[str], command: str) -> None:
    """Evaluate the run that `argv` names; `command` is the whole command line, for the record."""
    from hf_ssl.evaluation.compare import results_table
    from hf_ssl.evaluation.probe_run import parse_probe, probe_run

    path, data, arguments = parse_probe(argv, EXAMPLES)
    results = probe_run(path, data, arguments, command)
    print(f"\n{results_table([results])}")
