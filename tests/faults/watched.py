"""A gateway that also tells, on SIGUSR1, how many asyncio tasks it has. Else as a user runs it."""

from __future__ import annotations

import asyncio
import json
import signal
import sys

from penstock_server.__main__ import main


def _tell(number: int, frame: object) -> None:
    """Between two steps of the running loop, where Python runs its signal handlers."""
    told = {"logger": "watched", "level": "info", "message": "tasks"}
    print(json.dumps({**told, "tasks": len(asyncio.all_tasks())}), file=sys.stderr, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, _tell)
    sys.exit(main())
