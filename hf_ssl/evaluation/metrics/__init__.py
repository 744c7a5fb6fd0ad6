"""Metrics of a classifier: an `evaluate` module that works offline, and its values with 95 % intervals."""
