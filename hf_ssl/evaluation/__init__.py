"""Evaluation of a frozen encoder: features, linear probe, metrics with intervals, results.json."""
