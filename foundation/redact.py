"""Addresses without their secrets: user names, passwords, signatures and tokens are never written down or shown."""

from __future__ import annotations

import re

MASK = "***"

_HARMLESS = frozenset(
    ("alt", "dl", "download", "format", "generation", "raw", "ref", "rev", "revision", "versionid", "version")
)
"""Names of query parameters that say which file is meant, and whose values are no secrets. All others are masked: no
list of the names of secrets is ever complete."""
_ADDRESS = re.compile(
    r"(?P<quote>['\"])?(?P<scheme>\b[a-zA-Z][a-zA-Z0-9+.-]{1,20}:/{1,2})"
    r"(?P<rest>(?(quote)(?:(?!(?P=quote))[^\s<>])+|[^\s<>\"]+))"
)
"""In quotes an address ends with them; one without may hold any sign but the double quote. As a path it has lost one
slash."""
_PATH = re.compile(r"(\burl:? {0,4}['\"]?/[^\s'\"?]{0,500}\?)([^\s'\"]+)")  # as libraries quote the end of an address
_PLAIN = re.compile(r"[\w.~/-]{0,128}")
_PORT = re.compile(r"(?:\[[^\]]*\]|[^:]*)(?::[\d{}.,]*)?")  # a host with its port, braces to expand included
_AFTER = ",;:.)]}'"  # a sentence, a list or a quotation may go on behind an address
_HEADER = re.compile(r"(?i)\b(authorization|x-[a-z-]{0,30}(?:token|key|signature))(\s*[:=]\s*)(?:[a-z]+ +)?[^\s'\"]+")
_VALUE = r"(?:'[^']*'|\"[^\"]*\"|[^\s'\"]+)"
_SECRET = r"(?:token|secret|pass|key|cred|sign?|sas|cookie|session|auth|bearer|connection|user)"
_OF_COMMANDS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(\s(?:-H|--header)[\s=]*)(['\"])([^:'\"\n]{1,80}:\s*)(?:(?!\2).)+\2", re.DOTALL), rf"\1\2\3{MASK}\2"),
    (re.compile(r"(\s(?:-H|--header)[\s=]*[^\s:'\"]{1,80}:)[^\s'\"]+"), rf"\1{MASK}"),
    (re.compile(rf"(?i)(\s--(?!no-)(?=[\w-]{{0,60}}{_SECRET})[\w-]{{1,80}}(?:=|\s+)){_VALUE}"), rf"\1{MASK}"),
    (re.compile(rf"(?i)((?<![\w.:?&-])(?=[\w.:-]{{0,60}}{_SECRET})[\w.:-]{{1,80}}=){_VALUE}"), rf"\1{MASK}"),
    (re.compile(rf"(\s-[a-zA-Z]{{0,8}}u[\s=]+|\bsshpass\s+-p\s*|\s-pass\w{{0,8}}\s+){_VALUE}"), rf"\1{MASK}"),
    (re.compile(r"(\s-[a-zA-Z]{0,8}?[uU]\s*['\"]?)[^\s:'\"]+:[^\s'\"]+"), rf"\1{MASK}"),
    (re.compile(r"(\s-[a-zA-Z]{0,8}?b\s*['\"]?)[^\s='\"]+=[^\s'\"]+"), rf"\1{MASK}"),
)
"""Where the commands that fetch (curl, wget, and those of the stores) take secrets: any header, options and variables
whose names speak of one, users and cookies."""
_GLOBS = frozenset(("s3", "s3a", "gs", "gcs", "file"))
"""Kinds of address in which ``?`` stands for any sign, as in a path."""


def redact(text: str) -> str:
    """The text with the secrets of every address in it masked, and those of a command that fetches (``pipe:curl ...``).

    What is masked once stays as it is, so that texts can be compared redacted.
    """
    if ":/" in text:
        text = _ADDRESS.sub(_address, text)
    text = _PATH.sub(lambda found: found[1] + _query(found[2]), text)
    text = _HEADER.sub(rf"\1\2{MASK}", text)
    if "pipe:" in text:
        for pattern, masked in _OF_COMMANDS:
            text = pattern.sub(masked, text)
    return text


def _address(found: re.Match[str]) -> str:
    rest = found["rest"].rstrip(_AFTER)
    after = found["rest"][len(rest) :]
    user, rest = _split_user(rest)
    rest, _, fragment = rest.partition("#")
    if fragment:
        after = f"#{MASK if '=' in fragment else fragment}{after}"
    authority, slash, path = rest.partition("/")
    if not slash and "?" in authority:  # https://host?query
        authority, slash, path = authority.partition("?")
    if user:
        authority = f"{MASK if _tells(user, found['scheme']) else user}@{authority}"
    rest = authority + slash + path
    place, question, query = rest.partition("?")
    if question and _kind(found["scheme"]) not in _GLOBS:
        query = _query(query)
    return (found["quote"] or "") + found["scheme"] + place + question + query + after


def _split_user(rest: str) -> tuple[str, str]:
    """User and password of an address without its scheme, and what is left. Signs that should have been quoted (``/``,
    ``?`` and ``#`` in a password) do not end them: what stands before is then no host with a port."""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    user, at, _ = authority.rpartition("@")
    if not at and not _PORT.fullmatch(authority):
        user, at, _ = rest.rpartition("@")
    return (user, rest[len(user) + 1 :]) if at else ("", rest)


def _tells(user: str, scheme: str) -> bool:
    return ":" in user or _kind(scheme) in ("http", "https")


def _kind(scheme: str) -> str:
    return scheme.rstrip(":/").lower()


def _query(query: str) -> str:
    return "&".join(_parameter(part) for part in query.split("&"))


def _parameter(part: str) -> str:
    name, equals, value = part.partition("=")
    harmless = name.lower() in _HARMLESS and _PLAIN.fullmatch(value) is not None
    if harmless or not (value if equals else name):
        return part
    return f"{name}={MASK}" if equals else MASK


def has_password(address: str) -> bool:
    """Whether an address tells who asks: a password, or with HTTP any user (often a token)."""
    scheme, separator, rest = address.partition("://")
    user = _split_user(rest)[0] if separator else ""
    return bool(user) and _tells(user, scheme + separator)


def is_masked(address: str) -> bool:
    """Whether an address has lost its secrets, so that nothing can be fetched by it."""
    if address.startswith("pipe:"):
        return MASK in address
    return any(sign + MASK in address for sign in "=?&#") or f"//{MASK}@" in address
