"""One number on disk that is written over where it lies: that needs no space, so a full disk takes it.

    magic (8) | checksum (16) | boot id (36) | base u64 | mark u64

All numbers are big-endian. The checksum (BLAKE2b) covers everything behind it.

Rule 1: a file that is shorter was never whole, so nothing was ever promised in it: it is none yet.
Rule 2: what is in it can be half written by a crash, unlike what was renamed: whoever reads a damaged
one takes the worst for true.
"""

from __future__ import annotations

import errno
import os
import struct
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from atmostd import files
from atmostd.files import NotOurs

MAGIC = b"ATMOSTM\n"

_CHECKSUM_BYTES = 16
_BODY = struct.Struct(">36sQQ")
_BYTES = len(MAGIC) + _CHECKSUM_BYTES + _BODY.size  # in one sector


class Mark(NamedTuple):
    """What is in such a file."""

    boot_id: str  # of the run of the host that it is for; empty: of all
    base: int  # the mark that this one is below; 0: none
    mark: int


class DamagedPlace(Exception):
    """There was a number, and which is not known."""


def read(path: Path) -> Mark | None:
    """None: there is none yet. Raises DamagedPlace, NotOurs or OSError."""
    try:
        data = files.read_ours(path)
    except FileNotFoundError:
        return None
    if len(data) < _BYTES:
        return None
    body = data[-_BODY.size :]
    if len(data) != _BYTES or data[: -_BODY.size] != _head(body):
        raise DamagedPlace(f"{path}: its checksum is wrong: it was damaged")
    boot_id, base, mark = _BODY.unpack(body)
    return Mark(boot_id.rstrip(b"\0").decode("ascii", "replace"), base, mark)


def write(path: Path, mark: Mark, durable: bool) -> None:
    """Write it over the one before. `durable`: it survives a power cut, if the file did. Raises OSError,
    and then either of them may be there."""
    body = _BODY.pack(mark.boot_id.encode(), mark.base, mark.mark)
    try:
        file = files.open_ours(path, os.O_RDWR | os.O_CREAT)
    except NotOurs as error:
        raise OSError(errno.EPERM, str(error)) from error
    try:
        if os.pwrite(file, _head(body) + body, 0) != _BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if durable:
            os.fsync(file)
    finally:
        os.close(file)


def _head(body: bytes) -> bytes:
    return MAGIC + blake2b(body, digest_size=_CHECKSUM_BYTES).digest()
