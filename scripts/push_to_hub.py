"""Publish a run: `python scripts/push_to_hub.py PATH --repo_id ORG/NAME`, the same as `hf-ssl publish`."""

import sys

from hf_ssl.cli import main

if __name__ == "__main__":
    sys.exit(main(["publish", *sys.argv[1:]]))
