"""The sidecar for MLX models: the same server as the gateway, with a local provider.

``backend`` is what the engine's thread drives; ``runtime`` makes mlx ready, ``loading`` brings a
model into memory, ``running`` tries whether it can compute several texts at once; ``batch`` does,
in ``rows``, with what ``prefixes`` has kept; ``sampling`` draws tokens. Queue, text, prompts and
states are the same for every kind of sidecar: ``penstock_server.local``.
"""
