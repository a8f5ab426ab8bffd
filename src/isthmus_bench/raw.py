"""The yardstick of `bench transport`: blocking sockets in a loop, with the checksum that isthmus computes
too.

A chunk is a header of 16 bytes (length, xxh3) and its payload; one connection, one thread on each side. With
`tls`, the same inside TLS 1.3.
"""

import socket
import struct

import xxhash

HEADER = struct.Struct("<QQ")


def send(sock: socket.socket, payload: memoryview, chunk_bytes: int, total: int) -> None:
    """Sends `total` bytes as chunks of `payload`, then waits for the receiver's last word."""
    for start in range(0, total, chunk_bytes):
        chunk = payload[start : start + chunk_bytes]
        sock.sendall(HEADER.pack(len(chunk), xxhash.xxh3_64_intdigest(chunk)))
        sock.sendall(chunk)
    fill(sock, memoryview(bytearray(1)))


def receive(sock: socket.socket, buffer: memoryview, total: int) -> None:
    """Reads `total` bytes of chunks into `buffer`, checks each, says so."""
    header = memoryview(bytearray(HEADER.size))
    position = 0
    while position < total:
        fill(sock, header)
        length, check = HEADER.unpack(header)
        chunk = buffer[position : position + length]
        fill(sock, chunk)
        if xxhash.xxh3_64_intdigest(chunk) != check:
            raise ValueError("a chunk does not match its checksum")
        position += length
    sock.sendall(b"k")


def fill(sock: socket.socket, view: memoryview) -> None:
    """Reads exactly as much as fits."""
    position = 0
    while position < len(view):
        count = sock.recv_into(view[position:])
        if not count:
            raise ConnectionResetError("closed early")
        position += count
