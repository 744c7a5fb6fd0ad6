"""Measure every number of the goals: `python scripts/benchmark.py [NAMES] [--json FILE]`, as `hf-ssl benchmark`."""

import sys

from hf_ssl.cli import main

if __name__ == "__main__":
    sys.exit(main(["benchmark", *sys.argv[1:]]))
