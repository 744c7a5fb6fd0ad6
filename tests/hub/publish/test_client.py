"""What can be known before anything is sent, and what the Hub's refusals become."""

import logging

import pytest

from hf_ssl.hub.publish.client import HubError, call_hub, check_repo_id, open_hub

TOKEN = "hf_readTokenOfTheLoopbackHub"


@pytest.mark.parametrize("name", ["org/name", "ana/mae-vit_base.64px", "org/0"])
def test_names_that_the_hub_allows(name):
    check_repo_id(name)


NOT_ALLOWED = ["name", "org/name/more", "org/na me", "org/-name", "org/name.", "org/a--b", "org/a..b", "../name", ""]
NOT_ALLOWED += ["org/" + "n" * 100, "org/name.git", "datasets/org/name", "örg/name"]


@pytest.mark.parametrize("name", NOT_ALLOWED)
def test_names_that_it_does_not_allow(name):
    with pytest.raises(ValueError, match="no name of a repository on the Hub; write ORG/NAME"):
        check_repo_id(name)


def test_the_token_decides_where_one_may_write(hub):
    for repo_id in ("ana/model", "org/model"):
        assert open_hub(repo_id).endpoint == hub.url
    with pytest.raises(PermissionError, match="cannot write to 'others'; choose a --repo_id under ana or org"):
        open_hub("others/model")


def test_a_token_that_may_only_read(hub, monkeypatch):
    hub.add_token(TOKEN, role="read")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(PermissionError, match="may only read; make one that may write"):
        open_hub("ana/model")


def test_a_token_that_nobody_knows(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(PermissionError, match="does not know the token.*hf auth login") as raised:
        open_hub("ana/model")
    assert TOKEN not in str(raised.value)


def test_no_token(hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PermissionError, match="There is no token to write ana/model with; log in"):
        open_hub("ana/model")
    assert hub.requests == []


def test_no_network(hub):
    hub.stop()
    with pytest.raises(HubError, match="cannot be reached to ask whose token this is.*check the network"):
        open_hub("ana/model")


def test_a_server_that_recovers(hub):
    hub.fail("GET", "/api/whoami-v2", status=500, times=2)
    open_hub("ana/model")
    assert hub.requests.count(("GET", "/api/whoami-v2")) == 3


def test_a_server_that_does_not_recover(hub):
    hub.fail("GET", "/api/whoami-v2", status=503, times=100)
    with pytest.raises(HubError, match="answered 503 each time hf_ssl tried to ask whose.*try the same command again"):
        open_hub("ana/model")


def test_a_refusal_is_not_repeated(hub):
    hub.fail("GET", "/api/whoami-v2", status=400, times=100)
    with pytest.raises(HubError, match=r"refused \(400\)"):
        open_hub("ana/model")
    assert hub.requests.count(("GET", "/api/whoami-v2")) == 1


def test_messages_are_one_line_and_hold_no_token(caplog):
    def call():
        raise OSError(f"a proxy said:\n Authorization: Bearer {TOKEN}")

    with caplog.at_level(logging.DEBUG), pytest.raises(HubError) as raised:
        call_hub("do a thing", call)
    assert "\n" not in str(raised.value) and "a proxy said" in str(raised.value)
    assert TOKEN not in str(raised.value) and TOKEN not in caplog.text
    # A traceback prints the cause, too.
    assert raised.value.__cause__ is None and raised.value.__suppress_context__
