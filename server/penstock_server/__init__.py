"""Penstock's server: one typed gRPC endpoint for every language model.

A request walks through three rooms: ``service`` (validate) → ``routing`` (whose is it?) →
a provider's ``stream``. The gateway and every sidecar are this same server; they differ only
in the providers they are started with.
"""

import os
from importlib.metadata import version

# Before anything imports gRPC: its fork handlers are for programs that fork. Sidecars are started
# by exec, which these handlers would hold up and complain about.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
# Its core writes to stderr, past the log, what strangers send it, line breaks and all.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

__version__ = version("penstock-server")
