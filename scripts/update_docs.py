"""Write README.md's result tables, the cards of model_cards/ and the benchmarks anew; nobody types a number there.

A table stands between `<!-- results: FOLDER FOLDER … -->` and `<!-- end -->`, the folders relative to the repository.
A card comes from the results.json beside it, docs/benchmarks.md and the tables of docs/cost.md from
docs/benchmarks/results.json, which `hf-ssl benchmark --output docs` measures.

    python scripts/update_docs.py
"""

import re
from pathlib import Path

from hf_ssl.benchmark.page import write_page
from hf_ssl.benchmark.results import read_results
from hf_ssl.evaluation.compare import read_runs, results_table
from hf_ssl.hub.card.model_card import write_card

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
    for results in sorted(ROOT.glob("model_cards/*/results.json")):
        write_card(results.parent)
    write_page(read_results(ROOT / "docs" / "benchmarks" / "results.json"), ROOT / "docs")
