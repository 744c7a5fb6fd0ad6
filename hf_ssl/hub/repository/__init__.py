"""The repository folder of a run: what lies in it, and what of a run may be in it."""
