"""Pretraining: arguments, loop, optimisers, checkpoints, progress."""
