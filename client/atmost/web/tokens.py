"""The token that opens the page: drawn at random for each process, or kept in a file.

Rule: who has it may do what this process may. So nobody else can read the file, and it is compared in
constant time.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
import stat

TOKEN_BYTES = 32
_TOKEN = re.compile(r"[A-Za-z0-9_-]{32,200}")  # as it stands in a URL, a header and a cookie
FORM = "32 to 200 of A-Z a-z 0-9 _ -"


class BadTokenFile(OSError):
    """Why the file can't be used."""


def new_token() -> str:
    """256 bits nobody can guess."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def is_same(token: str, given: str) -> bool:
    """Whether this is the token, told in a time that says nothing of where they differ."""
    return hmac.compare_digest(token.encode(), given.encode("utf-8", "replace"))


def token_of(path: str) -> str:
    """The token in this file, which is made with a new one if there is none. Raises BadTokenFile."""
    try:
        return _made(path)
    except FileExistsError:
        return _read(path)
    except OSError as error:
        if os.path.exists(path):  # in a folder that nobody may write to
            return _read(path)
        raise BadTokenFile(f"cannot make the token file {path}: {error.strerror}") from error


def _made(path: str) -> str:
    token = new_token()
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(file, "w") as text:
        text.write(token + "\n")
    return token


def _read(path: str) -> str:
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(file, "rb") as opened:
            found = os.fstat(file)
            data = opened.read(1024) if stat.S_ISREG(found.st_mode) else b""
    except OSError as error:
        raise BadTokenFile(f"cannot read the token file {path}: {error.strerror}") from error
    if found.st_mode & stat.S_IRWXO:
        raise BadTokenFile(
            f"everybody can get at the token file {path}, so it keeps nobody out: chmod o= {path}, "
            "then put a new token into it, or remove it to have one made"
        )
    token = data.decode("ascii", "replace").strip()
    if not _TOKEN.fullmatch(token):
        raise BadTokenFile(
            f"the token file {path} has no token ({FORM}): remove it to have one made"
        )
    return token
