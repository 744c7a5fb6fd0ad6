"""Evaluation of a frozen encoder: features, linear probe, kNN, metrics with intervals, results.json."""
