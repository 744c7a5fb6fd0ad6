"""The real client against the Hub on loopback: one commit or none, whatever fails."""

import logging
import math

import pytest

from hf_ssl.hub.publish.client import HubError, open_hub
from hf_ssl.hub.publish.upload import upload_folder

REPO = "org/model"


def upload(folder, **arguments):
    arguments = {"message": "a model", "is_ours": lambda paths: "README.md" in paths, **arguments}
    return upload_folder(open_hub(REPO), folder, REPO, **arguments)


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def on_hub(hub, revision="main"):
    files = hub.repository("model", REPO).files(revision)
    return {path: content for path, content in files.items() if path != ".gitattributes"}


def puts(hub):
    return [path for method, path in hub.requests if method == "PUT"]


def test_everything_arrives_in_one_commit(hub, folder):
    revision = upload(folder)
    assert on_hub(hub) == on_hub(hub, revision) == contents(folder)
    assert [commit.title for commit in hub.repository("model", REPO).commits.values()] == [
        "initial commit",
        "a model",
    ]
    assert not hub.unknown


def test_a_new_repository_is_private_if_asked(hub, folder):
    upload(folder, private=True)
    assert hub.repository("model", REPO).private


def test_what_is_to_be_private_does_not_go_to_a_public_repository(hub, folder):
    upload(folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
    before = on_hub(hub)
    with pytest.raises(FileExistsError, match="org/model exists and is public; make it private"):
        upload(folder, private=True)
    assert on_hub(hub) == before
    hub.repository("model", REPO).private = True
    upload(folder, private=True)
    assert on_hub(hub) == contents(folder)


def test_the_same_again_changes_nothing(hub, folder):
    revision = upload(folder)
    assert upload(folder) == revision
    assert len(hub.repository("model", REPO).commits) == 2 and len(puts(hub)) == 2


def test_an_update_replaces_changes_and_removes_what_is_gone(hub, folder):
    first = upload(folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
    (folder / "pretraining" / "model.safetensors").unlink()
    (folder / "config.json").write_text("{}", encoding="utf-8")
    second = upload(folder)
    assert first != second and on_hub(hub) == contents(folder)
    assert len(puts(hub)) == 2  # the weights that stayed were not sent again


def test_what_is_not_ours_is_left_alone(hub, folder):
    hub.add_repository("model", REPO).commit({"thesis.pdf": b"mine"}, "a thesis")
    with pytest.raises(FileExistsError, match=r"org/model exists and was not made by hf_ssl \(it holds thesis.pdf\)"):
        upload(folder)
    assert on_hub(hub) == {"thesis.pdf": b"mine"} and not puts(hub)


def test_an_empty_repository_is_filled(hub, folder):
    hub.add_repository("model", REPO, private=True)
    upload(folder)
    assert on_hub(hub) == contents(folder) and hub.repository("model", REPO).private


PATHS = {
    "look": ("GET", "/api/models/org/model"),
    "create": ("POST", "/api/repos/create"),
    "preupload": ("POST", "/preupload/"),
    "batch": ("POST", "/info/lfs/objects/batch"),
    "commit": ("POST", "/commit/"),
}


@pytest.mark.parametrize("step", PATHS)
def test_a_server_that_answers_500_twice_and_then_works(hub, folder, step):
    hub.fail(*PATHS[step], status=500, times=2)
    upload(folder)
    assert on_hub(hub) == contents(folder)
    assert len(hub.repository("model", REPO).commits) == 2


def test_objects_that_fail_twice_arrive(hub, folder):
    hub.fail("PUT", ".*", status=500, times=2)
    upload(folder)
    assert on_hub(hub) == contents(folder)


@pytest.mark.parametrize("step", PATHS)
def test_a_server_that_stays_broken_holds_nothing_half(hub, folder, step):
    old = {"README.md": b"# older"}
    if step != "create":
        hub.add_repository("model", REPO).commit(old, "older")
    hub.fail(*PATHS[step], status=500, times=math.inf)
    with pytest.raises(HubError, match="answered 500 each time.*again later"):
        upload(folder)
    if step == "create":
        with pytest.raises(KeyError):
            hub.repository("model", REPO)
    else:
        assert on_hub(hub) == old


def test_an_upload_cut_in_the_middle_is_taken_up_where_it_ended(hub, folder):
    hub.cut("PUT", ".*", times=math.inf)
    with pytest.raises(HubError, match="upload to org/model.*try"):
        upload(folder)
    assert on_hub(hub) == {}
    hub._faults.clear()
    sent = len(puts(hub))
    upload(folder)
    assert on_hub(hub) == contents(folder) and len(puts(hub)) == sent + 2


def test_objects_that_arrived_are_not_sent_again(hub, folder):
    hub.fail("POST", "/commit/", status=400)
    with pytest.raises(HubError, match=r"refused \(400\) to upload"):
        upload(folder)
    upload(folder)
    assert on_hub(hub) == contents(folder) and len(puts(hub)) == 2


@pytest.mark.parametrize("step", ["create", "commit"])
def test_a_lost_answer_is_not_a_second_commit(hub, folder, step):
    hub.cut(*PATHS[step], after=True)
    upload(folder)
    assert on_hub(hub) == contents(folder)
    assert len(hub.repository("model", REPO).commits) == 2


def test_what_somebody_else_pushed_meanwhile_is_kept(hub, folder, monkeypatch):
    upload(folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
    api = open_hub(REPO)
    commit = api.create_commit

    def create_commit(*arguments, **keywords):
        hub.repository("model", REPO).commit({"README.md": b"theirs"}, "theirs")
        return commit(*arguments, **keywords)

    monkeypatch.setattr(api, "create_commit", create_commit)
    with pytest.raises(HubError, match="Somebody else changed org/model during the upload"):
        upload_folder(api, folder, REPO, message="a model", is_ours=lambda paths: True)
    assert on_hub(hub)["README.md"] == b"theirs"


def test_a_token_without_the_right_for_this_repository(hub, folder, monkeypatch):
    hub.add_token("hf_readOrgTokenOfTheLoopback", user="bob", read_orgs=("org",))
    monkeypatch.setenv("HF_TOKEN", "hf_readOrgTokenOfTheLoopback")
    with pytest.raises(PermissionError, match="The token may not create org/model"):
        upload(folder)


def test_no_token_in_logs(hub, folder, caplog, capsys):
    hub.fail("POST", "/commit/", status=500, times=1)
    with caplog.at_level(logging.DEBUG):
        upload(folder)
    printed = capsys.readouterr()
    assert "hf_writeToken" not in caplog.text + printed.out + printed.err
