"""Weights by their address on the hub of Hugging Face: fetched once, into the hub's own cache."""

from __future__ import annotations

import re

from foundation.errors import UserError
from foundation.hub_access import forbidden, is_of_network, one_attempt
from foundation.voice import to_stderr

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
    from huggingface_hub.errors import GatedRepoError, HFValidationError, LocalEntryNotFoundError

    found = _FILE.fullmatch(text)
    if found is None or ".." in (*found["repo"].split("/"), *found["file"].split("/")):
        raise UserError(f"{text}: write hf://OWNER/REPO/FILE or hf://OWNER/REPO/FILE@REVISION")
    repo, file = found["repo"], found["file"]
    revision: str | None = found["revision"]
    try:
        return hf_hub_download(repo, file, revision=revision, local_files_only=True) + found["options"]
    except (LocalEntryNotFoundError, HFValidationError, ValueError):
        variable = forbidden()
        if variable or not fetch:
            why = f"{variable} is set" if variable else "a plan fetches nothing"
            raise UserError(f"{text} is not on this machine, and {why}: hf download {repo} {file}") from None
    to_stderr(f"{text}: asking the hub")
    with one_attempt() as silence:
        try:
            return hf_hub_download(repo, file, revision=revision) + found["options"]
        except GatedRepoError as error:
            raise UserError(
                f"{text}: its owner wants to be asked first: agree on its page, then hf auth login"
            ) from error
        except Exception as error:
            if not is_of_network(error) and not isinstance(error, HFValidationError | ValueError):
                raise
            reason = silence or (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(f"{text} cannot be had: {reason}") from error
