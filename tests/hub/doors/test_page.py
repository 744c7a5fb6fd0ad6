from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from hf_ssl import cli
from hf_ssl.hub.doors.stock import STOCK_DOORS

DOCS = Path(__file__).parents[3] / "docs" / "doors.md"


@pytest.fixture
def here(repositories, tmp_path, monkeypatch):
    """A directory from which a repository folder has a short name."""
    (tmp_path / "simclr-tiny").symlink_to(repositories["simclr"])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_prints_the_table_and_writes_the_page(here, capsys):
    assert cli.main(["doors", "simclr-tiny", "--output", "doors.md"]) == 0
    table = capsys.readouterr().out.strip()
    assert table.splitlines()[0].split("|")[3].strip() == "`simclr-tiny`"
    page = (here / "doors.md").read_text(encoding="utf-8")
    assert f"\n{table}\n" in page
    assert "`hf-ssl doors simclr-tiny --output doors.md`" in page
    assert all(door.line in page for door in STOCK_DOORS)
    assert 'MAEForPreTraining.from_pretrained("org/name"' in page
    assert 'SimCLRForPreTraining.from_pretrained("org/name"' in page
    assert "…" not in page.split("## What they give")[0]
    fixed = page.split("## What they give")[0], page.split("\n- ", 1)[1]
    assert all(part in DOCS.read_text(encoding="utf-8") for part in fixed), "write docs/doors.md anew"
    assert MarkdownIt().enable("table").render(page).count("<table>") == 3


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nowhere"], "no folder 'nowhere'"),
        (["simclr-tiny", "--picture", "nowhere.jpg"], "nowhere.jpg"),
        (["simclr-tiny", "--picture", "doors.txt"], "doors.txt"),
        (["simclr-tiny", "--output", "no/where.md"], "no/where.md"),
    ],
)
def test_what_cannot_be_read_or_written_is_named_in_one_line(here, capsys, argv, message):
    (here / "doors.txt").write_text("no picture")
    assert cli.main(["doors", *argv]) == 1
    [line] = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert message in line
