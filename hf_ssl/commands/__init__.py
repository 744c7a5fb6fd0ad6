"""The commands of `hf-ssl`, one file each: a summary, examples, and `run`, which parses and calls one function."""
