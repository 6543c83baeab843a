"""For notebooks: synchronous calls, cell by cell, as editors show scripts with `# %%` in them.

    python examples/notebook.py                     # or open it as a notebook

Asks the gateway at PENSTOCK_TARGET (default: 127.0.0.1:50051, where `make serve` listens) for
PENSTOCK_MODEL (default: local/tiny). A notebook runs an event loop of its own: the synchronous
calls do not mind, and ``await llm.agenerate(...)`` works in a cell as it is.
"""

# %% A model
import os

from penstock import BasicSession, compare, create_llm

llm = create_llm(os.environ.get("PENSTOCK_MODEL", "local/tiny"), max_output_tokens=60)
print(llm, llm.get_capabilities())

# %% One answer
response = llm.generate("What is the capital of Japan?", temperature=0)
print(response.content)
print(response.get_summary())

# %% Many, side by side
cities = ["Japan", "France", "Italy", "Norway"]
answers = llm.batch([f"What is the capital of {city}?" for city in cities])
for city, answer in zip(cities, answers, strict=True):
    print(city, "→", answer.content)

# %% A conversation that remembers
session = BasicSession(llm, system_prompt="Be brief.")
session.generate("My name is Ada.")
print(session.generate("What is my name?").content)
print(len(session.get_history()), "messages")

# %% The same question, several temperatures
models = [create_llm(f"{llm.provider}/{llm.model}", temperature=t) for t in (0.0, 0.7, 1.5)]
for each in compare(models, "Tell me a joke.", max_output_tokens=40).results:
    print(each.llm, each.response.content if each.response else each.error)
