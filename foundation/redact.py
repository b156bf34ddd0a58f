"""Addresses without their secrets: user names, passwords, signatures and tokens are never written down or shown."""

from __future__ import annotations

import re

MASK = "***"

_HARMLESS = frozenset(
    ("alt", "dl", "download", "format", "generation", "raw", "ref", "rev", "revision", "versionid", "version")
)
"""Names of query parameters that say which file is meant, and whose values are no secrets. All others are masked: no
list of the names of secrets is ever complete."""
_ADDRESS = re.compile(r"(?P<scheme>\b[a-zA-Z][a-zA-Z0-9+.-]{0,20}://)(?P<rest>[^\s'\"<>|\\^`]+)")
_PLAIN = re.compile(r"[\w.~/-]{0,128}")
_AFTER = ",;:.)]}"  # a sentence or a list may go on behind an address
_HEADER = re.compile(r"(?i)\b(authorization|x-[a-z-]{0,30}(?:token|key|signature))(\s*[:=]\s*)(?:[a-z]+ +)?[^\s'\"]+")
_OPTION = re.compile(r"(\s(?:-u|--user|--password|--token|--oauth2-bearer)[\s=]+)(?:'[^']*'|\"[^\"]*\"|\S+)")
_GLOBS = frozenset(("s3://", "s3a://", "gs://", "gcs://", "file://"))
"""Kinds of address in which ``?`` stands for any sign, as in a path."""


def redact(text: str) -> str:
    """The text with the secrets of every address in it masked, and those of a command that fetches (``pipe:curl ...``).

    What is masked once stays as it is, so that texts can be compared redacted.
    """
    if "://" in text:
        text = _ADDRESS.sub(_address, text)
    if "pipe:" in text:
        text = _OPTION.sub(rf"\1{MASK}", _HEADER.sub(rf"\1\2{MASK}", text))
    return text


def _address(found: re.Match[str]) -> str:
    rest = found["rest"].rstrip(_AFTER)
    after = found["rest"][len(rest) :]
    rest, _, fragment = rest.partition("#")
    if fragment:
        after = f"#{MASK if '=' in fragment else fragment}{after}"
    authority, slash, path = rest.partition("/")
    if not slash and "?" in authority:  # https://host?query
        authority, slash, path = authority.partition("?")
    user, at, host = authority.rpartition("@")
    if at and (":" in user or found["scheme"].lower() in ("http://", "https://")):
        authority = f"{MASK}@{host}"
    rest = authority + slash + path
    place, question, query = rest.partition("?")
    if question and found["scheme"].lower() not in _GLOBS:
        query = "&".join(_parameter(part) for part in query.split("&"))
    return found["scheme"] + place + question + query + after


def _parameter(part: str) -> str:
    name, equals, value = part.partition("=")
    harmless = name.lower() in _HARMLESS and _PLAIN.fullmatch(value) is not None
    return part if not equals or not value or harmless else f"{name}={MASK}"


def has_password(address: str) -> bool:
    """Whether an address tells who asks: a password, or with HTTP any user (often a token)."""
    scheme, separator, rest = address.partition("://")
    user, at, _ = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")
    return bool(separator and at) and (":" in user or scheme.lower() in ("http", "https"))


def is_masked(address: str) -> bool:
    """Whether an address has lost its secrets, so that nothing can be fetched by it."""
    return f"={MASK}" in address or f"//{MASK}@" in address
