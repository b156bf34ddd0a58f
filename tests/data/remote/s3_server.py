"""A server that speaks a part of S3: signatures (version 4), listings in pages, ranges, putting, errors as XML.

Written from the protocol's reference, and small, because the libraries that imitate all of AWS install a hundred
packages. Buckets are folders on the disk; objects are their files.
"""

from __future__ import annotations

import hashlib
import hmac
import threading
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote
from xml.sax.saxutils import escape

PAGE = 3
"""Most entries of one answer to a listing; S3 gives 1,000, but a client must be able to turn the page."""
_STATUS = {
    "AccessDenied": 403, "InvalidAccessKeyId": 403, "SignatureDoesNotMatch": 403, "NoSuchBucket": 404,
    "NoSuchKey": 404, "InvalidRange": 416, "NotImplemented": 501,
}  # fmt: skip


class Refusal(Exception):
    """An answer that is an error; the text is S3's code for it."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: S3Server

    def do_GET(self) -> None:
        try:
            self._answer()
        except Refusal as refusal:
            code = str(refusal)
            self._send(_STATUS[code], f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode())

    do_HEAD = do_PUT = do_GET

    def _answer(self) -> None:
        path, _, query = self.path.partition("?")
        words = dict(parse_qsl(query, keep_blank_values=True))
        self._check_signature(path, words)
        bucket, _, key = unquote(path).lstrip("/").partition("/")
        folder = self.server.buckets.get(bucket)
        if folder is None:
            raise Refusal("NoSuchBucket")
        if key and self.command == "PUT":
            self._put(folder / key)
        elif key:
            self._object(folder / key)
        elif words.get("list-type") == "2":
            self._listing(bucket, folder, words)
        elif self.command == "HEAD":
            self._send(200, b"")
        else:
            raise Refusal("NotImplemented")

    def _check_signature(self, path: str, words: dict[str, str]) -> None:
        """The signature of the header ``Authorization``, computed from the request as it arrived."""
        kind, _, rest = self.headers.get("Authorization", "").partition(" ")
        parts = dict(part.strip().split("=", 1) for part in rest.split(",")) if rest else {}
        if kind != "AWS4-HMAC-SHA256" or not {"Credential", "SignedHeaders", "Signature"} <= parts.keys():
            raise Refusal("AccessDenied")
        access_key, *scope = parts["Credential"].split("/")
        if access_key not in self.server.secrets:
            raise Refusal("InvalidAccessKeyId")
        signed = parts["SignedHeaders"].split(";")
        request = "\n".join(
            [
                self.command,
                path,
                "&".join(f"{quote(name, safe='-_.~')}={quote(words[name], safe='-_.~')}" for name in sorted(words)),
                *(f"{name}:{' '.join(self.headers.get(name, '').split())}" for name in signed),
                "",
                ";".join(signed),
                self.headers.get("x-amz-content-sha256", ""),
            ]
        )
        digest = hashlib.sha256(request.encode()).hexdigest()
        text = "\n".join(["AWS4-HMAC-SHA256", self.headers.get("x-amz-date", ""), "/".join(scope), digest])
        key = f"AWS4{self.server.secrets[access_key]}".encode()
        for word in (*scope, text):
            key = hmac.digest(key, word.encode(), "sha256")
        if not hmac.compare_digest(key.hex(), parts["Signature"]):
            raise Refusal("SignatureDoesNotMatch")

    def _put(self, file: Path) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if hashlib.sha256(data).hexdigest() != self.headers.get("x-amz-content-sha256"):
            raise Refusal("SignatureDoesNotMatch")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        self._send(200, b"", {"ETag": f'"{hashlib.md5(data).hexdigest()}"'})

    def _object(self, file: Path) -> None:
        if not file.is_file():
            raise Refusal("NoSuchKey")
        data, wanted = file.read_bytes(), self.headers.get("Range", "")
        headers = {
            "ETag": f'"{hashlib.md5(data).hexdigest()}"',
            "Last-Modified": formatdate(file.stat().st_mtime, usegmt=True),
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }
        if not wanted:
            return self._send(200, data, headers)
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        begin = int(first) if first else max(0, len(data) - int(last))
        end = min(int(last) + 1, len(data)) if first and last else len(data)
        if begin >= len(data):
            raise Refusal("InvalidRange")
        self._send(206, data[begin:end], headers | {"Content-Range": f"bytes {begin}-{end - 1}/{len(data)}"})

    def _listing(self, bucket: str, folder: Path, words: dict[str, str]) -> None:
        prefix, delimiter = words.get("prefix", ""), words.get("delimiter", "")
        sizes = {f.relative_to(folder).as_posix(): f.stat().st_size for f in folder.rglob("*") if f.is_file()}
        entries: dict[str, str] = {}  # by name, as an answer has them
        for name in sorted(name for name in sizes if name.startswith(prefix)):
            head, cut, _ = name[len(prefix) :].partition(delimiter) if delimiter else (name, "", "")
            if cut:
                common = prefix + head + cut
                entries[common] = f"<CommonPrefixes><Prefix>{escape(common)}</Prefix></CommonPrefixes>"
            else:
                modified = "<LastModified>2026-01-01T00:00:00.000Z</LastModified>"
                etag = f'<ETag>"{hashlib.md5((folder / name).read_bytes()).hexdigest()}"</ETag>'
                size = f"<Size>{sizes[name]}</Size><StorageClass>STANDARD</StorageClass>"
                entries[name] = f"<Contents><Key>{escape(name)}</Key>{modified}{etag}{size}</Contents>"
        after = words.get("continuation-token", words.get("start-after", ""))
        left = [name for name in entries if name > after]
        page = left[: min(PAGE, int(words.get("max-keys", PAGE)))]
        more = len(left) > len(page)
        self._send(
            200,
            "".join(
                [
                    '<?xml version="1.0" encoding="UTF-8"?>'
                    '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">',
                    f"<Name>{bucket}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(page)}</KeyCount>",
                    f"<IsTruncated>{str(more).lower()}</IsTruncated>",
                    f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more and page else "",
                    *(entries[name] for name in page),
                    "</ListBucketResult>",
                ]
            ).encode(),
            {"Content-Type": "application/xml"},
        )

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


class S3Server(ThreadingHTTPServer):
    """Runs in threads of this process until :meth:`stop`.

    Attributes:
        url: of the endpoint.
        buckets: folders by name.
        secrets: secret keys by access key.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.buckets: dict[str, Path] = {}
        self.secrets = {"key": "secret"}
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def handle_error(self, *arguments: object) -> None:
        """A client that hangs up is no fault of a test."""

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
