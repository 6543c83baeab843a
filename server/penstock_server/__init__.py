"""Penstock's server: one typed gRPC endpoint for every language model.

A request walks through three rooms: ``service`` (validate) → ``routing`` (whose is it?) →
a provider's ``stream``. The gateway and every sidecar are this same server; they differ only
in the providers they are started with.
"""

from importlib.metadata import version

__version__ = version("penstock-server")
