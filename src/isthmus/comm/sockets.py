"""The sockets that a process group opened, so that it can be broken from outside: a collective that waits for
a peer which hangs, or is cut off without a word, cannot be interrupted in any other way on every backend.
"""

import contextlib
import os
import socket
import stat

Opened = dict[int, int]
"""Descriptor -> inode, so that a number that was used again is not taken for the old one."""


def open_sockets() -> Opened:
    """All TCP connections of this process."""
    found: Opened = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            about = os.stat(f"/proc/self/fd/{name}")
            if stat.S_ISSOCK(about.st_mode) and _is_connection(int(name)):
                found[int(name)] = about.st_ino
    return found


def shut(sockets: Opened) -> None:
    """Ends what goes through them, here and at the peers: waiting calls fail at once. Who opened them still
    closes them."""
    for descriptor, inode in sockets.items():
        with contextlib.suppress(OSError):
            if os.stat(f"/proc/self/fd/{descriptor}").st_ino != inode:
                continue
            with socket.socket(fileno=os.dup(descriptor)) as handle:
                handle.shutdown(socket.SHUT_RDWR)


def _is_connection(descriptor: int) -> bool:
    """A listening socket is left alone: gloo ends its process when that fails."""
    with socket.socket(fileno=os.dup(descriptor)) as handle:
        is_tcp = handle.family in (socket.AF_INET, socket.AF_INET6) and handle.type == socket.SOCK_STREAM
        return is_tcp and not handle.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
