"""Probe a run: `python scripts/linear_probe.py RUN [--any_field value …]`, the same function as `hf-ssl probe`.

python scripts/linear_probe.py runs/simclr_report --crop_fraction 0.875
"""

import sys

from hf_ssl.cli import main

if __name__ == "__main__":
    sys.exit(main(["probe", *sys.argv[1:]]))
