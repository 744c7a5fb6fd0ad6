"""`hf-ssl publish`."""

from collections.abc import Sequence
from pathlib import Path

from hf_ssl.commands.parser import Parser

SUMMARY = "put a run on the Hub with its card, read it back, run the card's code, and tag it"
EXAMPLES = (
    "hf-ssl publish runs/mae_in100 --repo_id ORG/mae-vit-base-in100 --dry_run",
    "hf-ssl publish runs/mae_in100 --repo_id ORG/mae-vit-base-in100",
    "hf-ssl publish mae-vit-base-in100 --repo_id ORG/mae-vit-base-in100 --tag v1 --private",
)


def run(argv: Sequence[str], command: str) -> None:
    """Publish a run or a repository folder."""
    parser = Parser("publish", SUMMARY, EXAMPLES)
    parser.add_argument("path", type=Path, help="folder of an evaluated run, or a repository folder of `hf-ssl card`")
    parser.add_argument("--repo_id", "--repo-id", required=True, help="ORG/NAME on the Hub; made if it is not there")
    parser.add_argument("--tag", help="tag of this version (default: the next free one of v1, v2, …)")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--message", help="of the commit")
    parser.add_argument("--dry_run", "--dry-run", action="store_true", help="check everything, send nothing")
    arguments = parser.parse_args(argv)
    from hf_ssl.hub.publish.publish import publish

    published = publish(
        arguments.path,
        arguments.repo_id,
        tag=arguments.tag,
        private=arguments.private,
        message=arguments.message,
        dry_run=arguments.dry_run,
    )
    if published is not None:
        print(f"published: {published.url} at the tag {published.tag} (commit {published.revision[:12]})")
