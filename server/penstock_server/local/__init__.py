"""What every local sidecar shares: from a provider that is asked to stream down to the engine.

One request's way: ``provider`` finds the ``model`` and loads it where needed, ``prompt`` turns
messages into token ids, an ``engine`` (``serial``) computes on its own thread, ``job`` carries the
tokens back to the event loop, ``text`` makes them text. ``command`` and ``checkpoint`` are what a
sidecar's command line and a model's files have in common. The sidecars add what computes (torch,
mlx) and hand it in; none of it is imported here, so that all of them behave the same.
"""
