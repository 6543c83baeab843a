"""An answer on the terminal as it is written; Ctrl-C ends it, on the server, too.

    python examples/stream_to_terminal.py "Tell me a story."

Asks the gateway at PENSTOCK_TARGET (default: 127.0.0.1:50051, where `make serve` listens) for
PENSTOCK_MODEL (default: local/tiny).
"""

import os
import sys

import penstock


def main(prompt: str) -> int:
    """Print the answer; the exit code."""
    with penstock.create_llm(os.environ.get("PENSTOCK_MODEL", "local/tiny")) as llm:
        try:
            with llm.generate(prompt, stream=True, max_output_tokens=200) as chunks:
                for chunk in chunks:
                    print(chunk.content, end="", flush=True)
        except KeyboardInterrupt:
            print("\n(interrupted)", file=sys.stderr)
            return 130
        except penstock.PenstockError as error:
            print(f"\n{error}", file=sys.stderr)
            return 1
        print()
        if chunks.response is not None:
            print(chunks.response.get_summary(), file=sys.stderr)
        return 0


if __name__ == "__main__":
    sys.exit(main(" ".join(sys.argv[1:]) or "Tell me a story."))
