"""Weights by their address on the hub of Hugging Face: fetched once, into the hub's own cache."""

from __future__ import annotations

import re

from foundation.errors import UserError
from foundation.voice import to_stderr
from foundation.zoo.home import is_forbidden

PREFIX = "hf://"
_FILE = re.compile(
    r"hf://(?P<repo>[\w.-]+/[\w.-]+)/(?P<file>[^@,]+)(@(?P<revision>[\w./-]+))?(?P<options>(,[a-z_]+=[^,]*)*)"
)


def on_this_machine(text: str, fetch: bool = True) -> str:
    """The path of a file of the hub, with what was said behind its address.

    Args:
        text: ``hf://OWNER/REPO/FILE``, ``hf://OWNER/REPO/FILE@REVISION``, either with options such as ``,as=dinov2``.
        fetch: False: a plan is made, which takes what is here already.

    Raises:
        UserError: it is no such address; the file cannot be had: says why.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    found = _FILE.fullmatch(text)
    if found is None:
        raise UserError(f"{text}: write hf://OWNER/REPO/FILE or hf://OWNER/REPO/FILE@REVISION")
    repo, file, forbidden = found["repo"], found["file"], is_forbidden(text)
    revision: str | None = found["revision"]
    try:
        path = hf_hub_download(repo, file, revision=revision, local_files_only=True)
    except (LocalEntryNotFoundError, HFValidationError, ValueError):
        path = ""
    if path:
        return path + found["options"]
    if forbidden or not fetch:
        why = f"{forbidden} is set" if forbidden else "a plan fetches nothing"
        raise UserError(f"{text} is not on this machine, and {why}: hf download {repo} {file}")
    to_stderr(f"{text}: asking the hub")
    try:
        return hf_hub_download(repo, file, revision=revision) + found["options"]
    except GatedRepoError as error:
        raise UserError(f"{text}: its owner wants to be asked first: agree on its page, then hf auth login") from error
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, ValueError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{text} cannot be had: {reason}") from error
