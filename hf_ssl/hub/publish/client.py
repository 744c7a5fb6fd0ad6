"""The Hub's client with our errors: one sentence that says what to do, and never a token."""

import re
import time
from collections.abc import Callable
from typing import TypeVar

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from hf_ssl.data.sources import is_hub_id

TOKEN = re.compile(r"\b(hf|api_org)_[A-Za-z0-9]{20,}")
# Waits between attempts of a call that failed through no fault of ours, in seconds.
WAITS = (1.0, 3.0, 9.0)
PASSING_STATUSES = (408, 429, 500, 502, 503, 504)

Result = TypeVar("Result")


class HubError(OSError):
    """The Hub refused a call, or could not be reached."""


def open_hub(repo_id: str, repo_type: str = "model") -> HfApi:
    """The client for a repository that is to be written, after all that can be known to fail beforehand.

    Args:
        repo_id: "org/name".
        repo_type: "model", "dataset" or "space".

    Raises:
        ValueError: the name is not allowed.
        PermissionError: there is no token, it is not valid, or it may not write there.
        HubError: the Hub cannot be reached.
    """
    check_repo_id(repo_id)
    if get_token() is None:
        raise PermissionError(
            f"There is no token to write {repo_id} with; log in with `hf auth login`, or set HF_TOKEN to a token that "
            "may write."
        )
    api = HfApi()
    account = call_hub("ask whose token this is", api.whoami)
    namespaces = [account["name"], *(organization["name"] for organization in account.get("orgs", []))]
    namespace = repo_id.split("/")[0]
    if namespace not in namespaces:
        raise PermissionError(
            f"The token of '{account['name']}' cannot write to '{namespace}'; choose a --repo_id under "
            f"{' or '.join(namespaces)}, or log in as somebody else with `hf auth login`."
        )
    role = account.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise PermissionError(
            f"The token of '{account['name']}' may only read; make one that may write in the settings of the account, "
            "and log in with `hf auth login`."
        )
    return api


def check_repo_id(repo_id: str) -> None:
    """Raise a `ValueError` unless `repo_id` is "org/name" in letters that the Hub allows."""
    try:
        validate_repo_id(repo_id)
        allowed = is_hub_id(repo_id)
    except HFValidationError:
        allowed = False
    if not allowed:
        raise ValueError(
            f"'{repo_id}' is no name of a repository on the Hub; write ORG/NAME in letters, digits, '-', '_' and '.', "
            "of 96 characters at most, where no part begins or ends with '-' or '.' and there is no '--' or '..'."
        )


def call_hub(doing: str, call: Callable[[], Result]) -> Result:
    """Call the Hub, again after a while if it was a passing failure.

    Args:
        doing: what the call does, for messages, such as "upload ana/model".
        call: the call, to which it does no harm if it is carried out twice.

    Raises:
        PermissionError: no token, an invalid one, or one without the right.
        HubError: anything else; its message is one sentence.
    """
    for wait in (*WAITS, None):
        try:
            return call()
        except (HubError, PermissionError):
            raise
        except (HTTPError, OSError, RuntimeError) as raised:
            # The client wraps what stopped the upload of a large file.
            error = raised.__cause__ if type(raised) is RuntimeError else raised
            if not isinstance(error, (HTTPError, OSError)):
                raise
            if wait is None or not is_passing(error):
                raise explain(error, doing) from (None if TOKEN.search(str(error)) else error)
        time.sleep(wait)
    raise AssertionError("the last attempt returns or raises")


def is_passing(error: Exception) -> bool:
    """Whether a failure may be gone in a moment: the server's own, or a lost connection."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in PASSING_STATUSES
    # The second is how a download says that the Hub did not answer.
    return isinstance(error, (HTTPError, LocalEntryNotFoundError))


def explain(error: Exception, doing: str) -> OSError:
    """The error as one sentence that says what to do."""
    where = constants.ENDPOINT
    if isinstance(error, OfflineModeIsEnabled):
        return HubError(f"HF_HUB_OFFLINE is set, so hf_ssl did not {doing}; unset it and try again.")
    if isinstance(error, LocalTokenNotFoundError):
        return PermissionError(f"To {doing} takes a token; log in with `hf auth login`, or set HF_TOKEN.")
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        said = redact(" ".join((error.server_message or "").split()))
        said = f" ({said})" if said else ""
        if isinstance(error, GatedRepoError):
            return PermissionError(f"To {doing}, ask for access on its page on the Hub first; it is gated.")
        if status == 401 and not isinstance(error, RepositoryNotFoundError):
            return PermissionError(
                f"The Hub does not know the token, so hf_ssl could not {doing}{said}; log in again with "
                "`hf auth login`, or mend HF_TOKEN."
            )
        if isinstance(error, RepositoryNotFoundError) or status == 404:
            return HubError(
                f"The Hub has no such repository, or none that the token may see, so hf_ssl could not {doing}{said}; "
                "check the name, or log in with `hf auth login`."
            )
        if status == 403:
            return PermissionError(
                f"The token may not {doing}{said}; take one with the right to write there (`hf auth login`)."
            )
        if status in PASSING_STATUSES:
            return HubError(
                f"The Hub answered {status} each time hf_ssl tried to {doing}{said}; try the same command again later."
            )
        return HubError(f"The Hub refused ({status}) to {doing}{said}; mend that and try again.")
    if isinstance(error, (HTTPError, LocalEntryNotFoundError)):
        return HubError(
            f"The Hub at {where} cannot be reached to {doing} ({redact(' '.join(str(error).split()))}); check the "
            "network and try the same command again."
        )
    return HubError(f"hf_ssl could not {doing} ({redact(' '.join(str(error).split()))}); mend that and try again.")


def redact(text: str) -> str:
    """The text with every token replaced."""
    token = get_token()
    if token:
        text = text.replace(token, "hf_…")
    return TOKEN.sub("hf_…", text)
