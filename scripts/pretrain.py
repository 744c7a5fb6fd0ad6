"""Pretrain with `accelerate launch scripts/pretrain.py --config RECIPE [--any_field value …]`.

The same function as `hf-ssl pretrain`. On eight GPUs, ImageNet-100 as a stream from the Hub:

    accelerate launch --num_processes 8 scripts/pretrain.py --config simclr_in100_r50 --batch_size 32
"""

import sys

from hf_ssl.cli import main

if __name__ == "__main__":
    sys.exit(main(["pretrain", *sys.argv[1:]]))
