"""The command line: help, one-line errors, exit statuses."""

import subprocess
import sys

import pytest

from hf_ssl import cli


def test_help_shows_every_command(capsys):
    assert cli.main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"\n  {command} " in printed for command in cli.COMMANDS)
    assert cli.main([]) == 0


@pytest.mark.parametrize(
    ("argv", "status", "message"),
    [
        (["pretrian"], 2, "no command 'pretrian'; choose one of demo, pretrain"),
        (["pretrain"], 1, "No recipe was given"),
        (["pretrain", "--config", "mae_demo", "--mask_ration", "0.5"], 1, "did you mean '--mask_ratio'"),
        (["pretrain", "--config", "nowhere.yaml"], 1, "no recipe 'nowhere.yaml'"),
        (["pretrain", "--config", "mae_demo", "--dataset", "./nowhere"], 1, "'./nowhere' does not exist"),
        (["probe", "nowhere"], 1, "'nowhere' holds no results.json"),
        (["compare", "nowhere"], 1, "'nowhere' holds no results.json"),
        (["card", "nowhere"], 1, "--output; see hf-ssl card --help"),
        (["demo", "--outptu", "x"], 1, "--outptu"),
        (["card", "nowhere", "--output", "x"], 1, "'nowhere' holds no results.json"),
    ],
)
def test_an_error_is_one_line_and_a_status(argv, status, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(argv) == status
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert [line for line in captured.err.splitlines() if line.startswith("error: ")] == [
        captured.err.splitlines()[-1]
    ]


def test_debug_shows_the_traceback():
    with pytest.raises(FileNotFoundError):
        cli.main(["probe", "nowhere", "--debug"])


def test_an_interruption_is_not_an_error(monkeypatch, capsys):
    def interrupted(argv, command):
        raise KeyboardInterrupt("Interrupted; continue")

    monkeypatch.setitem(cli.COMMANDS, "pretrain", interrupted)
    assert cli.main(["pretrain"]) == 130
    assert "Interrupted; continue" in capsys.readouterr().err


def test_the_recipes_are_listed_with_their_sources(capsys):
    assert cli.main(["recipes"]) == 0
    printed = capsys.readouterr().out
    assert "simclr_report\n    SimCLR as in the report" in printed


def test_help_of_a_recipe_names_the_model_s_fields():
    command = [sys.executable, "-m", "hf_ssl.cli", "pretrain", "--config", "mae_demo", "--help"]
    printed = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert printed.returncode == 0
    assert "--mask_ratio" in printed.stdout and "--learning_rate" in printed.stdout


def test_a_demo_does_not_replace_what_it_did_not_make(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    assert cli.main(["demo", "--output", str(tmp_path)]) == 1
    assert "not empty and not a demo's" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "mine"
