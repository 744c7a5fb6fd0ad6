"""The README's tables are those of the committed results."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_tables_are_made_from_results():
    text = (ROOT / "README.md").read_text()
    fill_tables = runpy.run_path(str(ROOT / "scripts" / "update_docs.py"))["fill_tables"]
    assert text.count("<!-- results: ") == 2
    assert fill_tables(text) == text
