"""The command ``penstock-server``: argv, environment and file → configuration → a gateway."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys

from penstock_server import __version__, config, gateway, telemetry
from penstock_server.app import Server
from penstock_server.identity import new_token
from penstock_server.process import run

_EPILOG = """\
Without any configuration the gateway listens on 127.0.0.1:50051 and serves the embedded model as
local/tiny, every hosted provider whose key is in the environment (OPENAI_API_KEY,
ANTHROPIC_API_KEY, GROQ_API_KEY, …), and Ollama and LM Studio at their usual ports.

Any key can be set in the file, in the environment and by --set, the later one winning:
  [shutdown] drain = 10      PENSTOCK_SHUTDOWN__DRAIN=10      --set shutdown.drain=10
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="penstock-server",
        description="One typed gRPC endpoint for every language model.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"penstock-server {__version__}")
    parser.add_argument(
        "--check", action="store_true", help="check the configuration, print it, and exit"
    )
    parser.add_argument(
        "--new-token", metavar="NAME", help="make an API token for a caller of that name, and exit"
    )
    config.add_arguments(parser, config.DEFAULT_FILE)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the gateway; returns the process's exit code."""
    args = parser().parse_args(argv)
    try:
        if args.new_token is not None:
            return _new_token(args.new_token)
        settings = _load(args)
        telemetry.configure(settings.log)
        if args.check:
            providers = settings.providers or gateway.default_providers(os.environ)
            gateway.check_names(settings, providers)
            print(settings.model_copy(update={"providers": providers}).model_dump_json(indent=2))
            return 0
        served = gateway.Gateway(os.environ)
        return run(
            settings,
            lambda: served.assemble(settings),
            remake=lambda: served.assemble(_reload(args, settings)),
            files=[file] if (file := config.file_of(args, os.environ, "PENSTOCK_")) else [],
            on_ready=_welcome if settings.log.format == "human" else None,
        )
    except config.ConfigError as error:
        for line in str(error).splitlines():
            print(f"penstock-server: {line}", file=sys.stderr)
        return 2


def _load(args: argparse.Namespace) -> config.GatewayConfig:
    return config.load(config.GatewayConfig, args, os.environ, "PENSTOCK_")


def _reload(args: argparse.Namespace, running: config.GatewayConfig) -> config.GatewayConfig:
    """The configuration as it is now, but for what a running server cannot change."""
    fresh = _load(args)
    fixed = {key: getattr(running, key) for key in _FIXED}
    changed = [key for key, value in fixed.items() if getattr(fresh, key) != value]
    if changed:
        telemetry.log(logging.WARNING, "changes that need a restart", keys=",".join(changed))
    return fresh.model_copy(update=fixed)


_FIXED = (
    "listen",
    "insecure",
    "socket_mode",
    "tls",
    "limits",
    "keepalive",
    "shutdown",
    "log",
    "metrics",
)
"""What a server is made with."""


def _new_token(name: str) -> int:
    """Make a token, and tell what to do with it."""
    token, digest = new_token()
    print(
        f"# The token, for {name} alone; it is shown this once:\n"
        f"#   {token}\n"
        "# For the gateway's configuration:\n"
        f"[callers.{json.dumps(name)}]\n"
        f'tokens = ["{digest}"]'
    )
    return 0


def _welcome(server: Server) -> None:
    """Tell a person at a terminal what to do next."""
    address = server.addresses[0]
    target = "" if address == config.DEFAULT_LISTEN else f"--target {address} "
    print(
        f"\nPenstock {__version__} is ready on {address}. In another terminal, try:\n\n"
        f'  penstock {target}generate "What is Penstock?"\n',
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
