"""Write the result tables of README.md anew from results.json files; nobody types a number there.

A table stands between `<!-- results: FOLDER FOLDER … -->` and `<!-- end -->`, the folders relative to the repository.

    python scripts/update_readme.py
"""

import re
from pathlib import Path

from hf_ssl.evaluation.compare import read_runs, results_table

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"(<!-- results: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def fill_tables(text: str) -> str:
    """The text with every table made anew."""

    def table(match: re.Match[str]) -> str:
        runs = read_runs([ROOT / folder for folder in match[2].split()])
        return f"{match[1]}\n{results_table(runs)}\n\n{match[3]}"

    return BLOCK.sub(table, text)


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(fill_tables(readme.read_text()))
