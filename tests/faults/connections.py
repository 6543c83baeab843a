"""Many HTTP/2 connections that say nothing, from a process of their own.

``python -m tests.faults.connections HOST:PORT COUNT`` prints how many the server has greeted once
all are, or when none was for two seconds, and holds them until its standard input ends.
"""

from __future__ import annotations

import resource
import selectors
import socket
import sys
import time

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
AT_A_TIME = 200
STUCK = 2.0


def main(address: str, count: int) -> None:
    host, _, port = address.rpartition(":")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    selector = selectors.DefaultSelector()
    connections: list[socket.socket] = []
    greeted = 0
    last = time.monotonic()
    while greeted < count and time.monotonic() - last < STUCK:
        while len(connections) < count and len(connections) - greeted < AT_A_TIME:
            one = socket.create_connection((host, int(port)))
            one.sendall(PREFACE)
            connections.append(one)
            selector.register(one, selectors.EVENT_READ, one)
        for key, _ in selector.select(0.2):
            selector.unregister(key.fileobj)
            greeted += bool(key.data.recv(4096))
            last = time.monotonic()
    print(greeted, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
