"""The kinds of storage behind :class:`foundation.data.addresses.Storage`.

``http(s)://`` goes through urllib3 (kept connections, a time limit on every wait), ``pipe:`` starts a program, all else
is fsspec's. Whatever holds connections belongs to one process: after a fork it is made anew.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from foundation.data.addresses import (
    CHUNK,
    CONNECT_SECONDS,
    PART,
    READ_SECONDS,
    SLOWEST,
    RemoteError,
    Stat,
    Storage,
    is_http,
    is_pipe,
    needs,
    shown,
)
from foundation.errors import UserError
from foundation.search_path import environment_of_others

_GONE = (404, 410)
_REFUSED = (401, 403)
_LATER = (408, 425, 429, 500, 502, 503, 504)
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}

_pools: dict[tuple[int, str], Any] = {}
_pools_lock = threading.Lock()
os.register_at_fork(after_in_child=lambda: globals().update(_pools_lock=threading.Lock(), _pools={}))


def storage_of(address: str) -> Storage:
    """The storage that an address belongs to.

    Raises:
        UserError: the package for it is not installed, or there is no such kind.
    """
    if is_pipe(address):
        return PipeStorage()
    if is_http(address):
        return web(address)
    return FsspecStorage(*file_system(address))


def web(address: str, headers: Mapping[str, str] | None = None) -> HttpStorage:
    """The web server that an address belongs to; ``headers`` go with every request."""
    return HttpStorage(_pool(address), headers)


def _pool(address: str) -> Any:
    """The connections of this process, through the proxy that the environment names."""
    try:
        import urllib3
    except ImportError as error:
        raise needs("urllib3", address) from error
    from urllib.parse import urlsplit
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(address)
    proxy = "" if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme, "")
    with _pools_lock:
        pool = _pools.get((os.getpid(), proxy))
        if pool is None:
            pool = urllib3.ProxyManager(proxy, maxsize=4) if proxy else urllib3.PoolManager(maxsize=4)
            _pools[os.getpid(), proxy] = pool
        return pool


class HttpStorage:
    """A web server. It may ignore ranges: then what lies before is read and thrown away.

    Args:
        pool: of connections.
        headers: of every request; another server to which this one points does not get ``Authorization``.
    """

    def __init__(self, pool: Any, headers: Mapping[str, str] | None = None) -> None:
        self._pool, self._headers = pool, dict(headers or {})

    def stat(self, address: str) -> Stat:
        # Signed addresses often allow GET only, so a range of one byte stands in for HEAD.
        with self._ask(address, "bytes=0-0") as answer:
            if answer.status == 206:
                answer.drain_conn()
                return Stat(_range_of(address, answer)[2], _tag(answer))
            length = answer.headers.get("Content-Length", "")
            return Stat(int(length) if length.isdigit() else None, _tag(answer))

    def read(self, address: str, begin: int, end: int, tag: str = "") -> bytes:
        parts, missing = [], end - begin
        for part in self._from(address, begin, f"bytes={begin}-{end - 1}", tag):
            parts.append(part[:missing])
            missing -= len(parts[-1])
            if not missing:
                break
        if missing:
            detail = f"{end - begin - missing} of {end - begin} bytes from byte {begin} on: the answer was cut off"
            raise RemoteError(shown(address), "unreadable", detail)
        return b"".join(parts)

    def stream(self, address: str, begin: int, tag: str = "") -> Iterator[bytes]:
        return self._from(address, begin, f"bytes={begin}-" if begin else "", tag)

    def _from(self, address: str, begin: int, wanted: str, tag: str) -> Iterator[bytes]:
        with self._ask(address, wanted) as answer:
            if tag and _tag(answer) and _tag(answer) != tag:
                raise RemoteError(shown(address), "corrupt", "the file on the server was replaced meanwhile", False)
            skip = begin
            if answer.status == 206:
                first = _range_of(address, answer)[0]
                if first != begin:
                    raise RemoteError(
                        shown(address), "corrupt", f"asked from byte {begin} on, the server answers from {first} on"
                    )
                skip = 0
            for part in self._body(address, answer):
                if skip >= len(part):
                    skip -= len(part)
                    continue
                yield part[skip:]
                skip = 0

    @contextmanager
    def _ask(self, address: str, wanted: str) -> Iterator[Any]:
        import urllib3

        headers = {"Accept-Encoding": "identity"} | ({"Range": wanted} if wanted else {}) | _login(address)
        headers |= self._headers
        timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS)
        with _named(address):
            answer = self._pool.request(
                "GET", address, headers=headers, timeout=timeout, preload_content=False, redirect=True,
                retries=_retries(address),
            )  # fmt: skip
        try:
            self._check(address, answer)
            yield answer
        finally:
            if answer.length_remaining != 0:  # half read: no other answer can follow on this connection
                answer.close()
            else:  # also one without a body wants its end to be read, or the next request finds it in its way
                answer.drain_conn()
            answer.release_conn()

    def _check(self, address: str, answer: Any) -> None:
        status, name = answer.status, shown(address)
        if status in (200, 206):
            if answer.headers.get("Content-Encoding", "identity") != "identity":
                raise RemoteError(name, "unreadable", "the server changes the encoding of the file", False)
            return
        if status in _GONE:
            raise RemoteError(name, "missing", f"HTTP {status}: not there", False)
        if status in _REFUSED:
            raise RemoteError(name, "unreadable", f"HTTP {status}: access is refused", False)
        if status == 416:
            raise RemoteError(name, "truncated", "HTTP 416: the file on the server is shorter than expected", False)
        after = answer.headers.get("Retry-After", "")
        wait = float(after) if after.isdigit() else 0.0
        raise RemoteError(name, "unreadable", f"HTTP {status}", status in _LATER, wait)

    def _body(self, address: str, answer: Any) -> Iterator[bytes]:
        began, received = time.monotonic(), 0
        with _named(address):
            while part := answer.read1(CHUNK, decode_content=False):
                received += len(part)
                spent = time.monotonic() - began
                if spent > READ_SECONDS:
                    if received < SLOWEST * spent:
                        detail = f"{received:,} bytes in {spent:.0f} seconds: the server stalls"
                        raise RemoteError(shown(address), "unreadable", detail)
                    began, received = time.monotonic(), 0
                yield part
            if answer.length_remaining:
                detail = f"the answer was cut off, {answer.length_remaining:,} bytes are missing"
                raise RemoteError(shown(address), "unreadable", detail)


def _retries(address: str) -> Any:
    """Up to five redirects: to other servers of the web, and from https never to http, where anyone can listen in and
    put other bytes in."""
    import urllib3

    class Redirects(urllib3.Retry):
        def increment(self, method: Any = None, url: Any = None, response: Any = None, *rest: Any, **named: Any) -> Any:
            target = response.get_redirect_location() if response is not None else None
            scheme = str(target or "").partition("://")[0].lower() if "://" in str(target or "") else ""
            if scheme and (scheme not in ("http", "https") or (scheme == "http" and str(url).startswith("https:"))):
                detail = f"it redirects to {shown(str(target))}, and {scheme}:// is not followed from there"
                raise RemoteError(shown(address), "unreadable", detail, False)
            return super().increment(method, url, response, *rest, **named)

    return Redirects(total=5, connect=0, read=0, status=0, other=0, redirect=5)


def _login(address: str) -> dict[str, str]:
    """The header that says who asks, where ``~/.netrc`` (or the file that ``NETRC`` names) knows the server.

    Another server to which this one points does not get it: urllib3 takes it off.
    """
    import netrc
    from urllib.parse import urlsplit

    import urllib3

    path = os.environ.get("NETRC") or os.path.expanduser("~/.netrc")
    if not os.path.isfile(path):
        return {}
    try:
        found = netrc.netrc(path).authenticators(urlsplit(address).hostname or "")
    except (OSError, netrc.NetrcParseError) as error:
        raise UserError(f"{path} cannot be read: {type(error).__name__}") from None  # its text may be a password
    return {} if found is None else dict(urllib3.make_headers(basic_auth=f"{found[0]}:{found[2]}"))


@contextmanager
def _named(address: str) -> Iterator[None]:
    """Errors of the connection with the address and in plain words."""
    import urllib3.exceptions as of

    try:
        yield
    except of.LocationParseError as error:
        raise UserError(f"{shown(address)} is not an address: {error}") from error
    except (of.ConnectTimeoutError, of.ReadTimeoutError) as error:
        kind = "connection" if isinstance(error, of.ConnectTimeoutError) else "data"
        seconds = CONNECT_SECONDS if kind == "connection" else READ_SECONDS
        raise RemoteError(shown(address), "unreadable", f"no {kind} for {seconds:g} seconds") from error
    except (of.HTTPError, OSError) as error:
        raise RemoteError(shown(address), "unreadable", f"the connection broke: {_plain(error)}") from error


def _plain(error: BaseException) -> str:
    """What went wrong, without the objects that urllib3 puts around it."""
    while error.__cause__ or isinstance(getattr(error, "reason", None), BaseException):
        error = error.__cause__ or error.reason  # type: ignore[attr-defined]
    return f"{type(error).__name__}: {re.sub('<[^>]*>', '', str(error)).strip(' :')}"


def _range_of(address: str, answer: Any) -> tuple[int, int, int | None]:
    match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", "").strip())
    if not match:
        raise RemoteError(shown(address), "corrupt", "a part of the file without a word on which (Content-Range)")
    first, last, total = match.groups()
    return int(first), int(last), None if total == "*" else int(total)


def _tag(answer: Any) -> str:
    return answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""


def file_system(address: str) -> tuple[Any, str]:
    """Fsspec's file system of an address, and the path in it.

    Raises:
        UserError: the package is missing, or no such kind is known.
    """
    scheme = address.partition("://")[0]
    try:
        import fsspec
    except ImportError as error:
        raise needs("fsspec", address) from error
    try:
        # fsspec keeps one object per process, thread and setting; asking anew is what makes it safe after a fork.
        system, path = fsspec.core.url_to_fs(address)
    except ImportError as error:
        package = _PACKAGES.get(scheme, scheme)
        raise needs(package, address, extra=package == "s3fs") from error
    except ValueError as error:
        raise UserError(f"{shown(address)}: no kind of storage is called {scheme}:// ({error})") from error
    return system, path


class FsspecStorage:
    """A file system of fsspec (S3, Google Cloud Storage, Azure, ...)."""

    def __init__(self, system: Any, path: str) -> None:
        self._system, self._path = system, path

    def stat(self, address: str) -> Stat:
        with _answers(address):
            self._system.invalidate_cache()
            facts = self._system.info(self._path)
        size = facts.get("size")
        tag = next((str(facts[name]) for name in ("ETag", "etag", "LastModified", "mtime") if facts.get(name)), "")
        return Stat(None if size is None else int(size), tag)

    def read(self, address: str, begin: int, end: int, tag: str = "") -> bytes:
        with _answers(address):
            data = bytes(self._system.cat_file(self._path, start=begin, end=end))
        if len(data) != end - begin:
            detail = f"asked for {end - begin} bytes from byte {begin} on, got {len(data)}"
            raise RemoteError(shown(address), "unreadable", detail)
        return data

    def stream(self, address: str, begin: int, tag: str = "") -> Iterator[bytes]:
        facts = self.stat(address)
        if tag and facts.tag and facts.tag != tag:
            raise RemoteError(shown(address), "corrupt", "the file in the storage was replaced meanwhile", False)
        end = facts.size if facts.size is not None else 0
        for index in range(begin, end, PART):
            yield self.read(address, index, min(end, index + PART))

    def glob(self, pattern: str) -> list[str]:
        """Addresses of the files that a pattern (an address with signs in it) matches."""
        with _answers(pattern):
            self._system.invalidate_cache()
            return sorted(self._system.unstrip_protocol(path) for path in self._system.glob(pattern))


@contextmanager
def _answers(address: str) -> Iterator[None]:
    """Errors of a file system with the address; those that will not go away are not tried again."""
    try:
        yield
    except (UserError, RemoteError):
        raise
    except FileNotFoundError as error:
        raise RemoteError(shown(address), "missing", "not there", False) from error
    except PermissionError as error:
        raise RemoteError(shown(address), "unreadable", f"access is refused: {error}", False) from error
    except Exception as error:  # every package behind fsspec has errors of its own
        hopeless = type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError", "ParamValidationError")
        detail = f"{type(error).__name__}: {error}"
        if hopeless:
            detail += " (a public bucket needs FSSPEC_S3_ANON=true; see docs/remote-shards.md)"
        raise RemoteError(shown(address), "unreadable", detail, not hopeless) from error


class PipeStorage:
    """The output of a program, which is started without a shell. Only a whole can be had."""

    def stat(self, address: str) -> Stat:
        return Stat(None)

    def read(self, address: str, begin: int, end: int, tag: str = "") -> bytes:
        raise RemoteError(address, "unreadable", "the output of a program cannot be read in parts", False)

    def stream(self, address: str, begin: int, tag: str = "") -> Iterator[bytes]:
        words = shlex.split(address.removeprefix("pipe:"))
        with tempfile.TemporaryFile() as messages:
            try:
                program = subprocess.Popen(
                    words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=messages,
                    env=environment_of_others(),
                )  # fmt: skip
            except (OSError, IndexError) as error:
                raise RemoteError(address, "unreadable", f"cannot be started: {error}", False) from error
            try:
                assert program.stdout is not None
                skip = begin
                while part := program.stdout.read(CHUNK):
                    if skip >= len(part):
                        skip -= len(part)
                        continue
                    yield part[skip:]
                    skip = 0
                if program.wait() != 0:
                    messages.seek(max(0, messages.seek(0, os.SEEK_END) - 500))
                    said = messages.read().decode("utf-8", "replace").strip()
                    detail = f"the program ended with status {program.returncode}: {said or 'it said nothing'}"
                    raise RemoteError(address, "unreadable", detail)
            finally:
                program.kill()
                program.wait()
                program.stdout.close()  # type: ignore[union-attr]
