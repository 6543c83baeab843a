"""An agent: the model asks for tools until it can answer.

    PENSTOCK_MODEL=openai/gpt-5-nano python examples/tool_agent.py "How far is Oslo from Rome?"

Asks the gateway at PENSTOCK_TARGET (default: 127.0.0.1:50051, where `make serve` listens) for
PENSTOCK_MODEL (default: local/tiny, which was taught no tools and answers without them).
"""

import math
import os
import sys

import penstock
from penstock import EventType, tool

PLACES = {"oslo": (59.91, 10.75), "rome": (41.9, 12.5), "tokyo": (35.68, 139.69)}


@tool
def position(city: str) -> tuple[float, float]:
    """Latitude and longitude of a city, in degrees.

    Args:
        city: its name in English, such as "Oslo".
    """
    return PLACES[city.lower()]  # an unknown one is told to the model as a failure


@tool
async def distance(a: tuple[float, float], b: tuple[float, float]) -> float:
    """The distance of two positions on earth, in kilometres."""
    (lat1, lon1), (lat2, lon2) = (tuple(map(math.radians, place)) for place in (a, b))
    cosine = math.cos(lat1) * math.cos(lat2) * math.cos(lon1 - lon2)
    return round(6371 * math.acos(min(1.0, math.sin(lat1) * math.sin(lat2) + cosine)))


def main(question: str) -> None:
    """Answer it, and say on stderr which tools were called."""
    with penstock.create_llm(os.environ.get("PENSTOCK_MODEL", "local/tiny")) as llm:

        @llm.events.on(EventType.TOOL_COMPLETED)
        def report(event: penstock.Event) -> None:
            data = event.data
            said = data["result"] if data["success"] else data["error"]
            print(f"{data['tool_name']}({data['arguments']}) → {said}", file=sys.stderr)

        response = llm.run_tools(
            question, [position, distance], tool_timeout=10, max_output_tokens=300
        )
        print(response.content)


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or "How far is Oslo from Rome?")
