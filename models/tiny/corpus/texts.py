"""Longer answers: advice, jokes, poems and stories."""

from random import Random

from .facts import ADVICE, RECIPES
from .stories import ANIMAL_NAMES, OTHER_CREATURES, PEOPLE, PLACES, THINGS, long_story, short_story
from .verses import FUN_FACTS, HAIKU, JOKES, KIND_WORDS, MOTTOES, POEMS, RIDDLES, SENTENCES
from .words import Exchange, fill, opening, with_article


def advice(rng: Random) -> Exchange:
    """Ask for advice or for simple instructions."""
    recipe = rng.random() < 0.25
    task = rng.choice(tuple(RECIPES if recipe else ADVICE))
    question = fill(rng, (
        "How can I {task}?", "How do I {task}?", "Give me advice: how can I {task}?",
        "Tell me how to {task}.", "What should I do to {task}?", "How to {task}?",
        "Do you have tips to {task}?", "I want to {task}.", "I would like to {task}.",
        "Can you help me {task}?", "Some advice to {task}, please.", "Help me {task}.",
        "How could I {task}?", "What is a good way to {task}?", "What helps me {task}?",
        "Teach me to {task}.", "Three tips to {task}, please.", "What can I do to {task}?",
        "I cannot {task}, what should I do?", "Any tips on how to {task}?",
    ), task=task)  # fmt: skip
    if recipe:
        return Exchange(question, opening(rng) + RECIPES[task])
    tips = rng.sample(ADVICE[task], 3)
    lead = rng.choice(("Here are three tips. ", "Try this. ", ""))
    return Exchange(question, lead + " ".join(tips))


GIVE_ME = (
    "Tell me {name}.", "Write {name}.", "Give me {name}.", "Do you know {name}?",
    "I would like {name}.", "Can you tell me {name}?", "Please write {name}.",
    "Let me hear {name}.", "Make up {name}.", "Can you write {name}?", "I want to hear {name}.",
    "Tell me {name}, please.", "How about {name}?", "Say {name}.", "Write me {name}.",
)  # fmt: skip


def joke(rng: Random) -> Exchange:
    """Ask for a joke."""
    name = rng.choice((
        "a joke", "a joke", "a joke", "something funny", "a funny joke", "a good joke",
        "a short joke",
    ))  # fmt: skip
    return Exchange(fill(rng, GIVE_ME, name=name), rng.choice(JOKES))


def small_text(rng: Random) -> Exchange:
    """Ask for a riddle, a fact, a kind word, a motto or a sentence."""
    names, texts = rng.choice((
        (("a riddle", "a short riddle", "a good riddle"), RIDDLES),
        (("a fun fact", "an interesting fact", "a fact", "something interesting"), FUN_FACTS),
        (("something nice", "a compliment", "a kind word", "something kind"), KIND_WORDS),
        (("a motto", "a saying", "a wise word", "a motto for the day"), MOTTOES),
        (("a sentence", "one sentence", "a short sentence", "a simple sentence"), SENTENCES),
    ))  # fmt: skip
    return Exchange(fill(rng, GIVE_ME, name=rng.choice(names)), rng.choice(texts))


def verse(rng: Random) -> Exchange:
    """Ask for a haiku or a poem, perhaps about a subject."""
    names, texts = rng.choice((
        (("a haiku", "a short haiku", "a little haiku"), HAIKU),
        ((
            "a poem", "a poem", "a short poem", "a little poem", "some poetry", "a few verses",
        ), POEMS),
    ))  # fmt: skip
    subject, text = rng.choice(tuple(texts.items()))
    name = rng.choice(names) + rng.choice(("", f" about {subject}"))
    return Exchange(fill(rng, GIVE_ME, name=name), text)


SUBJECTS_OF_STORIES = (
    "", "", " about {hero}", " about {hero}", " about {place}", " about a {animal}",
    " about {hero} and a {animal}", " about {thing}", " about a {animal} and {place}",
    " with a {animal}", " about {hero} and {thing}", " that happens at {place}",
)  # fmt: skip
SHORT_REQUESTS = (
    "Tell me a story{about}.", "Tell me a short story{about}.", "Write a story{about}.",
    "Please write a short story{about}.", "I would like to hear a story{about}.",
    "Can you tell me a story{about}?", "Write a short story{about}.", "Make up a story{about}.",
    "Do you know a story{about}?", "I want a story{about}.", "Tell a story{about}.",
    "Give me a story{about}.", "Write me a story{about}.", "Read me a story{about}.",
    "A story{about}, please.", "Let me hear a little story{about}.", "Invent a story{about}.",
)  # fmt: skip
LONG_REQUESTS = (
    "Tell me a long story{about}.", "Write a long story{about}.",
    "Please write a long story{about}.", "Write a very long story{about}.",
    "I would like to hear a long story{about}.", "Can you tell me a long story{about}?",
    "Make up a long story{about}.", "A long story{about}, please.",
    "Write me a really long story{about}.", "Tell me a very long story{about}.",
    "Write a detailed story{about}.", "Tell me a fairy tale{about}.",
    "Write a story of many paragraphs{about}.", "I have time. Tell me a long story{about}.",
    "Write a longer story{about}.", "Give me a long story{about}.", "Write a long text{about}.",
    "Tell a long story{about}.", "Write a long answer{about}.",
)  # fmt: skip


def _story(rng: Random, long: bool) -> Exchange:
    about = rng.choice(SUBJECTS_OF_STORIES)
    values = {"hero": rng.choice(PEOPLE), "place": rng.choice(PLACES),
              "animal": rng.choice((*ANIMAL_NAMES, *OTHER_CREATURES)),
              "thing": rng.choice(THINGS)}  # fmt: skip
    asked = {slot: value for slot, value in values.items() if f"{{{slot}}}" in about}
    about = about.replace("a {animal}", with_article(values["animal"])).format(**values)
    question = fill(rng, LONG_REQUESTS if long else SHORT_REQUESTS, about=about)
    return Exchange(question, (long_story if long else short_story)(rng, **asked))


def tell_short_story(rng: Random) -> Exchange:
    """Ask for a story of a few sentences."""
    return _story(rng, long=False)


def tell_long_story(rng: Random) -> Exchange:
    """Ask for a story of several paragraphs."""
    return _story(rng, long=True)
