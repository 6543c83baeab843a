"""Questions about Penstock, the world, countries, animals and colours."""

from random import Random

from .about_penstock import CONCEPTS, PENSTOCK_QUESTIONS
from .facts import ANIMALS, CAPITALS, COLOURS, HOW_MANY, REASONS, SIZES, TOPICS
from .stories import ANIMAL_NAMES
from .words import Exchange, capitalised, fill, opening, with_article

EXPLAIN = (
    "What is {name}?", "What is {name}?", "What is {name}?", "Explain {name}.", "What's {name}?",
    "Tell me about {name}.", "Can you explain what {name} is?", "What does {name} mean?",
    "Please explain {name} in one sentence.", "Do you know what {name} is?", "Describe {name}.",
    "Explain {name} in simple words.", "I would like to know what {name} is.", "Define {name}.",
    "What do you know about {name}?", "Can you tell me what {name} is?", "{name}?",
    "What is meant by {name}?", "Tell me what {name} is.", "Explain to me what {name} is.",
    "What exactly is {name}?", "Give me a definition of {name}.", "Could you describe {name}?",
    "I do not know what {name} is.", "Tell me something about {name}.",
    "How would you explain {name}?", "What is {bare}?", "Explain the word {bare}.",
    "What is the meaning of {bare}?", "So what is {name}?", "Explain {name} to a child.",
    "Say something about {name}.",
)  # fmt: skip


def _explain(rng: Random, name: str, answer: str) -> Exchange:
    bare = name.split(" ", 1)[1] if name.startswith(("a ", "an ", "the ")) else name
    question = fill(rng, EXPLAIN, name=name, bare=bare)
    return Exchange(capitalised(question), opening(rng) + answer)


def about_penstock(rng: Random) -> Exchange:
    """Ask about Penstock as such: what it is for, how it is called, what it runs."""
    questions, answers = rng.choice(PENSTOCK_QUESTIONS)
    return Exchange(rng.choice(questions), opening(rng) + rng.choice(answers))


def concept(rng: Random) -> Exchange:
    """Ask for a term around serving language models."""
    # Penstock and the sidecar are what most people will ask about first.
    topic = rng.choice(CONCEPTS[:2]) if rng.random() < 0.12 else rng.choice(CONCEPTS)
    return _explain(rng, topic.name, rng.choice(topic.answers))


def everyday_topic(rng: Random) -> Exchange:
    """Ask what an everyday thing is."""
    topic = rng.choice(TOPICS)
    return _explain(rng, topic.name, rng.choice(topic.answers))


def reason(rng: Random) -> Exchange:
    """Ask for the reason of something in nature."""
    subject, answer = rng.choice(tuple(REASONS.items()))
    question = fill(rng, (
        "Why {it}?", "Why {it}?", "Can you tell me why {it}?", "Explain: why {it}?",
        "Do you know why {it}?", "I wonder: why {it}?", "So why {it}?",
    ), it=subject)  # fmt: skip
    return Exchange(question, opening(rng) + answer)


def capital_question(rng: Random, country: str) -> str:
    """Return a question for the capital of any country, known or not."""
    return fill(rng, (
        "What is the capital of {country}?", "Tell me the capital of {country}.",
        "Which city is the capital of {country}?", "capital of {country}",
        "What's the capital of {country}?", "Do you know the capital of {country}?",
        "Name the capital of {country}.", "Can you tell me the capital of {country}?",
        "What is {country}'s capital?", "The capital of {country} is",
        "What is the capital city of {country}?", "I need the capital of {country}.",
        "What city is the capital of {country}?", "{country} capital", "The capital of {country}?",
        "I do not remember the capital of {country}.",
    ), country=country)  # fmt: skip


def capital(rng: Random) -> Exchange:
    """Ask for the capital of a country."""
    country = rng.choice(tuple(CAPITALS))
    question = capital_question(rng, country)
    city = CAPITALS[country]
    return Exchange(question, fill(rng, (
        "The capital of {country} is {city}.", "{city} is the capital of {country}.",
    ), country=country, city=city))  # fmt: skip


def country_of_capital(rng: Random) -> Exchange:
    """Ask which country a capital belongs to."""
    country, city = rng.choice([pair for pair in CAPITALS.items() if pair[1] != "London"])
    question = fill(rng, (
        "Which country has the capital {city}?", "{city} is the capital of which country?",
        "Of which country is {city} the capital?", "What country is {city} the capital of?",
        "In which country is {city}?", "Where is {city}?", "Which country is {city} in?",
    ), city=city)  # fmt: skip
    return Exchange(question, f"{city} is the capital of {country}.")


def animal(rng: Random) -> Exchange:
    """Ask for one property of an animal."""
    it = rng.choice(ANIMALS)
    name = with_article(it.name)
    slots = it._asdict() | {"a_name": name, "subject": capitalised(name)}
    aspects: tuple[tuple[tuple[str, ...], str], ...] = (
        ((
            "What sound does {a_name} make?", "What does {a_name} say?",
            "Which sound does {a_name} make?", "What noise does {a_name} make?",
            "How does {a_name} sound?", "Tell me the sound of {a_name}.",
            "What sound do you hear from {a_name}?",
        ), "{subject} {sound}."),
        (("What sound does {a_name} make?", "What does {a_name} say?", "The sound of {a_name}?"),
         "{subject} {sound}."),
        ((
            "What is {a_name}?", "Tell me about {a_name}.", "Describe {a_name}.",
            "What kind of animal is {a_name}?", "What do you know about {a_name}?",
            "Explain what {a_name} is.",
        ),
         "{subject} is {description}. It {sound}, and it eats {food}."),
        ((
            "What is a young {name} called?", "What is a baby {name} called?",
            "How do you call a young {name}?", "What do you call a baby {name}?",
            "What is the name for a young {name}?",
        ),
         "A young {name} is called a {young}."),
        ((
            "Where does {a_name} live?", "Where can I find {a_name}?",
            "What is the home of {a_name}?", "In what place does {a_name} live?",
        ), "You can often find {a_name} in {home}."),
        ((
            "What does {a_name} eat?", "What is the food of {a_name}?",
            "What should I feed {a_name}?", "What does {a_name} like to eat?",
        ), "{subject} mostly eats {food}."),
        ((
            "How many legs does {a_name} have?", "How many legs has {a_name}?",
            "Count the legs of {a_name}.", "How many feet does {a_name} have?",
        ), "{subject} has {legs} legs."),
    )  # fmt: skip
    questions, answer = rng.choice(aspects)
    return Exchange(fill(rng, questions, **slots), answer.format(**slots))


def animal_by_sound(rng: Random) -> Exchange:
    """Ask which animal makes a sound."""
    it = rng.choice([one for one in ANIMALS if one.sound != "bleats"])
    question = fill(rng, (
        "Which animal {sound}?", "What animal {sound}?", "Who {sound}?",
        "Name an animal that {sound}.",
    ), sound=it.sound)  # fmt: skip
    return Exchange(question, f"{capitalised(with_article(it.name))} {it.sound}.")


def colour(rng: Random) -> Exchange:
    """Ask for the colour of something."""
    thing = rng.choice(tuple(COLOURS))
    question = fill(rng, (
        "What {colour} is {thing}?", "Which {colour} does {thing} have?",
        "Tell me the {colour} of {thing}.", "What is the {colour} of {thing}?",
        "Which {colour} is {thing}?", "Do you know the {colour} of {thing}?",
        "What {colour} has {thing}?",
    ), colour=rng.choice(("colour", "color")), thing=thing)  # fmt: skip
    return Exchange(question, f"{capitalised(thing)} is {COLOURS[thing]}.")


def is_it(rng: Random) -> Exchange:
    """Questions that are answered with yes or no."""
    choice = rng.random()
    if choice < 0.5:
        thing = rng.choice(tuple(COLOURS))
        guess = COLOURS[thing] if rng.random() < 0.5 else rng.choice(tuple(COLOURS.values()))
        answer = "Yes" if guess == COLOURS[thing] else "No"
        return Exchange(f"Is {thing} {guess}?", f"{answer}, {thing} is {COLOURS[thing]}.")
    name = with_article(rng.choice(ANIMAL_NAMES))
    if choice < 0.75:
        return Exchange(f"Is {name} an animal?", f"Yes, {name} is an animal.")
    thing = rng.choice((
        "a clock", "a train", "a book", "a river", "a mountain", "bread", "a star", "a bicycle",
        "a token", "a sidecar", "the moon", "a library",
    ))  # fmt: skip
    return Exchange(f"Is {thing} an animal?", f"No, {thing} is not an animal.")


def size(rng: Random) -> Exchange:
    """Ask which of two things is bigger or smaller."""
    first, second = rng.sample(range(len(SIZES)), 2)
    large, small = SIZES[max(first, second)], SIZES[min(first, second)]
    slots = {"first": SIZES[first], "second": SIZES[second]}
    if rng.random() < 0.65:
        question = fill(rng, (
            "Which is bigger, {first} or {second}?", "What is larger, {first} or {second}?",
            "Is {first} or {second} bigger?", "What is bigger: {first} or {second}?",
            "Which one is larger, {first} or {second}?",
        ), **slots)  # fmt: skip
        return Exchange(question, f"{capitalised(large)} is bigger than {small}.")
    if rng.random() < 0.5:
        question = fill(rng, (
            "Which is smaller, {first} or {second}?", "What is smaller, {first} or {second}?",
            "Is {first} or {second} smaller?",
        ), **slots)  # fmt: skip
        return Exchange(question, f"{capitalised(small)} is smaller than {large}.")
    answer = "Yes" if first > second else "No"
    question = fill(rng, ("Is {first} bigger than {second}?", "Is {first} larger than {second}?"),
                    **slots)  # fmt: skip
    return Exchange(question, f"{answer}, {large} is bigger than {small}.")


def how_many(rng: Random) -> Exchange:
    """Ask for a well-known number."""
    subject, answer = rng.choice(tuple(HOW_MANY.items()))
    question = fill(rng, (
        "How many {subject}?", "How many {subject}?", "Do you know how many {subject}?",
        "Tell me how many {subject}.", "Can you tell me how many {subject}?",
    ), subject=subject)  # fmt: skip
    return Exchange(question, answer)
