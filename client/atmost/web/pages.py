"""What is not data: the page itself, from the static folder, and the words for who has no token."""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
import re
from pathlib import Path

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from atmost.web.problems import Problem

STATIC = Path(__file__).parent / "static"
FILE_BYTES_MAX = 4 * 1024 * 1024
_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")
_TYPES = {
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".html": "text/html",
    ".woff2": "font/woff2",
    ".txt": "text/plain",
    ".json": "application/json",
}
_PACKED = {".js", ".mjs", ".css", ".svg", ".html", ".txt", ".json"}


class _File:
    """A file as it was when it was read."""

    def __init__(self, path: Path, stamp: tuple[int, int]) -> None:
        self.stamp = stamp
        self.data = path.read_bytes()
        self.packed = gzip.compress(self.data, mtime=0) if path.suffix in _PACKED else None
        self.tag = f'"{hashlib.sha256(self.data).hexdigest()[:32]}"'
        guessed = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        kind = _TYPES.get(path.suffix, guessed)
        self.kind = f"{kind}; charset=utf-8" if path.suffix in _PACKED else kind


class Static:
    """The files of the page. They are read once, and again when they were changed."""

    def __init__(self, folder: Path = STATIC) -> None:
        self._folder = folder
        self._files: dict[Path, _File] = {}

    async def file(self, request: Request) -> Response:
        """One of them, by its path."""
        return self._answer(request, request.path_params["path"])

    async def icon(self, request: Request) -> Response:
        """What browsers ask for unasked."""
        return self._answer(request, "favicon.svg")

    async def index(self, request: Request) -> Response:
        """The page: every address of it is the same document."""
        return self._answer(request, "index.html")

    def _answer(self, request: Request, path: str) -> Response:
        file = self._find(path)
        headers = {"ETag": file.tag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
        if file.tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        data = file.data
        if file.packed is not None and "gzip" in request.headers.get("accept-encoding", ""):
            data = file.packed
            headers["Content-Encoding"] = "gzip"
        answer = Response(data, headers=headers)
        answer.headers["Content-Type"] = file.kind
        return answer

    def _find(self, path: str) -> _File:
        """Raises Problem."""
        parts = path.split("/")
        full = self._folder.joinpath(*parts)
        try:
            if not all(map(_PART.fullmatch, parts)) or not full.is_file() or full.is_symlink():
                raise FileNotFoundError(path)
            found = full.stat()
            if found.st_size > FILE_BYTES_MAX:
                raise FileNotFoundError(path)
            stamp = (found.st_mtime_ns, found.st_size)
            file = self._files.get(full)
            if file is None or file.stamp != stamp:
                file = self._files[full] = _File(full, stamp)
        except (OSError, ValueError):
            raise Problem(404, "not_found", f"there is no file {path[:80]!r} here") from None
        return file


_WORDS = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
{refresh}<title>atmost</title>
<h1>atmost</h1>
<p>{text}</p>
<p>Open the address that <code>atmost web</code> printed: it has the token. That of a service of systemd is
in <code>/var/lib/atmost-web/token</code>, for root.</p>
</html>
"""


def who_are_you(again: bool) -> Response:
    """No token. `again`: the cookie may come if our own page asks, so it does, once."""
    refresh = '<meta http-equiv="refresh" content="0">\n' if again else ""
    return _words("This page needs a token.", refresh)


def wrong_token() -> Response:
    """The token of another process, or of one before."""
    return _words("This token is not, or no longer, the one of this page.")


def _words(text: str, refresh: str = "") -> Response:
    return HTMLResponse(
        _WORDS.format(text=text, refresh=refresh), 401, {"Cache-Control": "no-store"}
    )
