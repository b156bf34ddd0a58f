"""The kinds of places that a file of the zoo is fetched from, each as a ``Storage``: all that follows is the same."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from foundation import schema
from foundation.data.addresses import CHUNK, RemoteError, Stat, Storage, is_remote, local_path, needs, shown
from foundation.data.storages import storage_of, web
from foundation.errors import UserError

_HUB = re.compile(
    r"hf://(?P<owner>[\w.-]+)/(?P<repo>[\w.-]+)(?:@(?P<first>[\w.-]+))?/(?P<file>[^@]+)(?:@(?P<last>.+))?"
)


def source_of(address: str) -> tuple[str, Storage]:
    """The storage of an address, and the address as that storage takes it.

    Args:
        address: a path, ``file://``, ``https://``, ``http://``, ``hf://OWNER/REPO/FILE@REVISION`` (also
            ``hf://OWNER/REPO@REVISION/FILE``, as the hub's own library writes it), ``s3://`` and others of fsspec.

    Raises:
        UserError: a package is missing, or it is no address of a file.
    """
    if not is_remote(address) or address.startswith("file://"):
        return address, FileStorage()
    if not address.startswith("hf://"):
        return address, storage_of(address)
    try:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers
    except ImportError as error:
        raise needs("huggingface_hub", address, extra=False) from error
    found = _HUB.fullmatch(address)
    if found is None:
        raise UserError(f"{shown(address)} is no file of the hub: write hf://OWNER/REPO/FILE@REVISION")
    revision = found["last"] or found["first"]
    there = hf_hub_url(f"{found['owner']}/{found['repo']}", found["file"], revision=revision)
    headers = {key: value for key, value in build_hf_headers().items() if value}
    return there, web(there, headers)


def path_of(address: str) -> Path:
    """Path of a file on this machine, given as such or by ``file://``."""
    return Path(local_path(address) if address.startswith("file://") else address).expanduser()


class FileStorage:
    """Files of this machine, network file systems among them."""

    def stat(self, address: str) -> Stat:
        try:
            with schema.opened(path_of(address)) as file:
                found = os.fstat(file.fileno())
        except (OSError, schema.FormError) as error:
            raise _failed(address, error) from None
        return Stat(found.st_size, str(found.st_mtime_ns))

    def read(self, address: str, begin: int, end: int, tag: str = "") -> bytes:
        data = b"".join(self._pieces(address, begin, end))
        if len(data) != end - begin:
            raise RemoteError(shown(address), "truncated", f"it ends at byte {begin + len(data):,}", False)
        return data

    def stream(self, address: str, begin: int, tag: str = "") -> Iterator[bytes]:
        return self._pieces(address, begin, None)

    def _pieces(self, address: str, begin: int, end: int | None) -> Iterator[bytes]:
        try:
            with schema.opened(path_of(address)) as file:
                file.seek(begin)
                while piece := file.read(CHUNK if end is None else min(CHUNK, end - begin)):
                    begin += len(piece)
                    yield piece
        except (OSError, schema.FormError) as error:
            raise _failed(address, error) from None


def _failed(address: str, error: OSError | schema.FormError) -> RemoteError:
    if isinstance(error, FileNotFoundError):
        return RemoteError(shown(address), "missing", "not there", False)
    return RemoteError(shown(address), "unreadable", str(error), False)
