"""Evaluate a run: `python scripts/linear_probe.py RUN [--any_field value …]`, the same as `hf-ssl evaluate`.

python scripts/linear_probe.py runs/simclr_report --crop_fraction 0.875
"""

import sys

from hf_ssl.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
