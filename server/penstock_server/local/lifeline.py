"""A sidecar does not outlive the gateway that started it, however the gateway ends."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_STDIN = 0


def watch_parent(descriptor: int = _STDIN, sockets: Sequence[str] = ()) -> threading.Thread:
    """End this process, at once, when the other side of a pipe is gone.

    The gateway holds the writing end of the sidecar's stdin and writes nothing; when it ends,
    the kernel closes the pipe, also after SIGKILL. A thread of its own waits for that, since the
    others may be deep in loading a model then. Nothing is tidied up (whoever wanted an answer is
    gone, and the kernel frees the memory) but the Unix sockets among the addresses in
    ``sockets``, with their directory, which was made for them: nobody else would.

    Returns the thread, which is a daemon. Example: ``if args.lifeline: watch_parent()``.
    """
    thread = threading.Thread(
        target=_wait_for_the_end, args=(descriptor, sockets), name="lifeline", daemon=True
    )
    thread.start()
    return thread


def _wait_for_the_end(descriptor: int, sockets: Sequence[str]) -> None:
    try:
        while os.read(descriptor, 4096):
            pass
    except OSError:
        pass  # no pipe there (any more): as good as its end
    for address in sockets:
        if address.startswith("unix:"):
            path = Path(address.removeprefix("unix:"))
            with suppress(OSError):
                path.unlink(missing_ok=True)
                path.parent.rmdir()  # only where it is empty now
    os._exit(0)
