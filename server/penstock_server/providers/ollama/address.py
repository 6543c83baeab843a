"""Where Ollama is: the value of OLLAMA_HOST, read as Ollama's own client reads it."""

from __future__ import annotations

import ipaddress
import re


def ollama_url(host: str) -> str:
    """The base URL for a value of OLLAMA_HOST; "" is the usual place.

    Source: ``envconfig/config.go`` of ollama/ollama. Host, port and scheme may each be missing;
    with a scheme, the port's default is the scheme's. An address that only a server can use
    (0.0.0.0) becomes the loopback's.

    Example::

        ollama_url("0.0.0.0") == "http://127.0.0.1:11434"
    """
    text = host.strip().strip("\"'").strip()
    scheme, has_scheme, rest = text.rpartition("://")
    default_port = {"http": "80", "https": "443"}.get(scheme, "11434")
    rest, _, path = rest.partition("/")
    match = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::(\d+))?", rest)
    name, port = (match[1], match[2]) if match else (rest, None)
    name = name.strip("[]") or "127.0.0.1"
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        pass
    else:
        if address.is_unspecified:
            name = "127.0.0.1" if address.version == 4 else "::1"
    if ":" in name:
        name = f"[{name}]"
    where = f"{scheme if has_scheme else 'http'}://{name}:{port or default_port}"
    return f"{where}/{path}".rstrip("/")
