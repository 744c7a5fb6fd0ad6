"""Objectives that stand on their own: tensors in, a scalar out."""
