"""An HF sidecar whose process may take little more memory than torch itself has taken.

``ROOM=BYTES python -m tests.sidecars.bounded …`` with the sidecar's own arguments.
"""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

import torch
import transformers
from penstock_hf.__main__ import main

if __name__ == "__main__":
    assert torch.__version__
    assert (
        transformers.AutoModelForCausalLM is not None
    )  # what is imported late would want some of the room
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    bound = pages * resource.getpagesize() + int(os.environ["ROOM"])
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
    sys.exit(main())
