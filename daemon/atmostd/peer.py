"""The process at the other end of a connection, in the kernel's words."""

from __future__ import annotations

import errno
import os
import socket
import struct

_SO_PEERPIDFD = 77  # linux/socket.h, since 6.5; the socket module does not name it
_PEERCRED = struct.Struct("3i")  # pid, uid, gid


class Peer:
    """Who connected: pid (0 if it is of another pid namespace), uid, and a pidfd, which becomes
    readable when that process dies."""

    __slots__ = ("pid", "pidfd", "uid")

    def __init__(self, connection: socket.socket) -> None:
        """Raises ProcessLookupError if the process has died already."""
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size)
        self.pid, self.uid, _ = _PEERCRED.unpack(credentials)
        try:
            self.pidfd = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
        except OSError as error:
            if error.errno != errno.ENOPROTOOPT:
                raise ProcessLookupError from error
            self.pidfd = os.pidfd_open(self.pid)  # a kernel before 6.5

    def close(self) -> None:
        os.close(self.pidfd)
