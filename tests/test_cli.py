"""The command line: help, one-line errors, exit statuses."""

import os
import pty
import shlex
import subprocess
import sys

import pytest

import hf_ssl
from hf_ssl import cli


def test_help_shows_the_journey_with_an_example_each(capsys):
    assert cli.main(["--help"]) == 0
    printed = capsys.readouterr().out
    places = [printed.index(f"\n  {command} ") for command in cli.COMMANDS]
    assert places == sorted(places)
    for command in cli.COMMANDS:
        assert cli.load_command(command).EXAMPLES[0] in printed
    assert cli.main([]) == 0


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_example_is_of_its_command(command):
    for example in cli.load_command(command).EXAMPLES:
        words = shlex.split(example)
        assert words[:2] == ["hf-ssl", command] or words[:3] == ["accelerate", "launch", f"scripts/{command}.py"]


def test_help_and_a_wrong_command_line_import_nothing_that_takes_time():
    code = (
        "import sys; from hf_ssl import cli; codes = [cli.main(['--help']), cli.main(['publish', '--tga', 'x'])]; "
        "assert codes == [0, 2], codes; "
        "assert not {'torch', 'transformers', 'timm', 'datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


@pytest.mark.parametrize(
    ("argv", "status", "message"),
    [
        (["pretrian"], 2, "no command 'pretrian'; did you mean 'pretrain'?"),
        (["pretrain"], 2, "No recipe was given"),
        (["pretrain", "--config", "mae_demo", "--mask_ration", "0.5"], 2, "did you mean '--mask_ratio'"),
        (["pretrain", "--config", "mae_demo", "--epochs", "many"], 2, "invalid float value: 'many'"),
        (["pretrain", "--config", "mae_demo", "--epochs", "-1"], 1, "epochs is -1.0; choose a value above 0"),
        (["pretrain", "--config", "nowhere.yaml"], 1, "no recipe 'nowhere.yaml'"),
        (["pretrain", "--config", "mae_demo", "--dataset", "./nowhere"], 1, "'./nowhere' does not exist"),
        (["pretrain", "--config", "mae_demo", "--push_to_hub", "a--b/c"], 1, "'a--b/c' is no name of a repository"),
        (["evaluate", "nowhere"], 1, "'nowhere' holds no results.json"),
        (["probe", "nowhere"], 1, "'nowhere' holds no results.json"),
        (["compare", "nowhere"], 1, "'nowhere' holds no results.json"),
        (["card", "nowhere"], 2, "--output; see hf-ssl card --help"),
        (["demo", "--outptu", "x"], 2, "--outptu"),
        (["card", "nowhere", "--output", "x"], 1, "'nowhere' holds no results.json"),
        (["publish", "nowhere"], 2, "required: --repo_id/--repo-id"),
        (["publish", "nowhere", "--repo_id", "org/name"], 1, "'nowhere' is neither a run nor a repository folder"),
        (["publish", "nowhere", "--repo_id", "name"], 1, "'name' is no name of a repository on the Hub"),
        (["doors", "nowhere"], 1, "nowhere"),
        (["export", "nowhere", "--format", "transformers", "--output", "x"], 1, "nowhere"),
        (["import", "nowhere.pth", "--config", "mae_demo", "--output", "x"], 1, "nowhere.pth"),
        (["space", "nowhere", "--output", "x"], 1, "nowhere"),
        (["data", "nowhere"], 1, "'nowhere' does not exist"),
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
    assert not list(tmp_path.iterdir())


def test_debug_shows_the_traceback():
    with pytest.raises(FileNotFoundError):
        cli.main(["probe", "nowhere", "--debug"])


def test_an_interruption_is_not_an_error(monkeypatch, capsys):
    def interrupted(argv, command):
        raise KeyboardInterrupt("Interrupted; continue")

    monkeypatch.setattr(cli.load_command("pretrain"), "run", interrupted)
    assert cli.main(["pretrain"]) == 130
    assert "Interrupted; continue" in capsys.readouterr().err


def test_a_reader_that_leaves_is_no_error():
    command = f"{shlex.quote(sys.executable)} -m hf_ssl.cli recipes | head -n 1; echo ${{PIPESTATUS[0]}}"
    finished = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=600)
    first, status = finished.stdout.splitlines()
    assert first == "mae_64px" and status in ("0", "141") and not finished.stderr


def test_colours_are_for_terminals():
    command = [sys.executable, "-m", "hf_ssl.cli", "card", "nowhere"]
    plain = subprocess.run(command, capture_output=True, timeout=600)
    assert b"\033" not in plain.stdout + plain.stderr
    screen, terminal = pty.openpty()
    on_terminal = subprocess.run(command, stdout=terminal, stderr=terminal, timeout=600)
    assert on_terminal.returncode == plain.returncode == 2
    assert os.read(screen, 10_000).startswith(b"\033[1;31merror:\033[0m")


def test_the_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"hf_ssl {hf_ssl.__version__}\n"


def test_the_recipes_are_listed_with_their_sources(capsys):
    assert cli.main(["recipes"]) == 0
    printed = capsys.readouterr().out
    assert "simclr_report\n    SimCLR as in the report" in printed


def test_help_of_a_recipe_names_the_model_s_fields(capsys):
    with pytest.raises(SystemExit) as exited:
        cli.main(["pretrain", "--config", "mae_demo", "--help"])
    printed = capsys.readouterr().out
    assert exited.value.code == 0
    assert "--mask_ratio" in printed and "--learning_rate" in printed and "examples:" in printed


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help_with_its_examples(command, capsys):
    with pytest.raises(SystemExit) as exited:
        cli.main([command, "--help"])
    assert exited.value.code == 0
    assert cli.load_command(command).EXAMPLES[0] in capsys.readouterr().out


def test_a_demo_does_not_replace_what_it_did_not_make(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    assert cli.main(["demo", "--output", str(tmp_path)]) == 1
    assert "not empty and not a demo's" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "mine"
