"""How gateways and sidecars talk to each other; callers have no use for it."""
