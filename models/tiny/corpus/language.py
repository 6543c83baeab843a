"""Opposites, plurals, rhymes, spelling, and lists of words."""

from random import Random

from .facts import DAYS, GROUPS, MONTHS, NUMBER_WORDS, OPPOSITES, PLURALS, RHYMES, SEASONS, SPELLING
from .words import Exchange, capitalised, fill


def opposite(rng: Random) -> Exchange:
    """Ask for the opposite of a word."""
    pair = rng.choice(OPPOSITES)
    word, other = pair if rng.random() < 0.6 else pair[::-1]
    question = fill(rng, (
        "What is the opposite of {word}?", "Opposite of {word}", "Tell me the opposite of {word}.",
        "What's the opposite of {word}?", "Which word is the opposite of {word}?",
        "Give me the opposite of {word}.", "What is the contrary of {word}?",
        "Do you know the opposite of {word}?",
    ), word=word)  # fmt: skip
    return Exchange(question, f"The opposite of {word} is {other}.")


def plural(rng: Random) -> Exchange:
    """Ask for the plural of a noun."""
    word = rng.choice(tuple(PLURALS))
    question = fill(rng, (
        "What is the plural of {word}?", "Plural of {word}", "Tell me the plural of {word}.",
        "One {word}, two what?", "What's the plural of {word}?",
        "What is the plural form of {word}?", "Give me the plural of {word}.",
        "How do you write more than one {word}?",
    ), word=word)  # fmt: skip
    return Exchange(question, f"The plural of {word} is {PLURALS[word]}.")


def rhyme(rng: Random) -> Exchange:
    """Ask for a word that rhymes."""
    group = rng.choice(RHYMES)
    word = group[0] if rng.random() < 0.6 else rng.choice(group)
    others = [other for other in group if other != word]
    question = fill(rng, (
        "What rhymes with {word}?", "Which word rhymes with {word}?", "Find a rhyme for {word}.",
        "Tell me a word that rhymes with {word}.", "Give me a rhyme for {word}.",
        "Do you know a rhyme for {word}?", "Words that rhyme with {word}",
    ), word=word)  # fmt: skip
    return Exchange(question, fill(rng, (
        "{rhyme} rhymes with {word}.", "{word} rhymes with {rhyme}.",
    ), word=word, rhyme=others[0]).capitalize())  # fmt: skip


def spelling(rng: Random) -> Exchange:
    """Ask how a word is spelled."""
    word = rng.choice(SPELLING)
    question = fill(rng, (
        "How do you spell {word}?", "Spell {word}.", "Spell the word {word}.",
        "Can you spell {word}?", "How is {word} spelled?", "What are the letters of {word}?",
        "How do I spell {word}?", "Please spell {word} for me.",
    ), word=word)  # fmt: skip
    return Exchange(question, f"{capitalised(word)} is spelled {'-'.join(word.upper())}.")


def _listing(parts: tuple[str, ...]) -> str:
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def whole_list(rng: Random) -> Exchange:
    """Ask for a complete list, such as the days of the week."""
    name, answer = rng.choice((
        ("the days of the week", f"The days of the week are {_listing(DAYS)}."),
        ("the months of the year", f"The months of the year are {_listing(MONTHS)}."),
        ("the seasons", f"The seasons are {_listing(SEASONS)}."),
        ("the letters of the alphabet", "A B C D E F G H I J K L M N O P Q R S T U V W X Y Z."),
        (
            "the colours of the rainbow",
            "The colours of the rainbow are red, orange, yellow, green, blue, indigo and violet.",
        ),
        ("the planets", f"The planets are {_listing(GROUPS['planets'])}."),
    ))  # fmt: skip
    question = fill(rng, (
        "What are {name}?", "Name {name}.", "List {name}.", "Tell me {name}.", "Give me {name}.",
        "Can you list {name}?", "Say {name}.", "Which are {name}?", "Name all {name}.",
        "Write down {name}.",
    ), name=name)  # fmt: skip
    return Exchange(question.replace("all the", "all"), answer)


def some_of_a_group(rng: Random) -> Exchange:
    """Ask for a few members of a group, such as three fruits."""
    group = rng.choice(tuple(GROUPS))
    number = rng.randint(2, 5)
    count = rng.choice((NUMBER_WORDS[number], str(number)))
    question = fill(rng, (
        "Name {count} {group}.", "Tell me {count} {group}.", "Give me {count} {group}.",
        "List {count} {group}.", "Can you name {count} {group}?", "I need {count} {group}.",
        "Write down {count} {group}.",
    ), count=count, group=group)  # fmt: skip
    chosen = tuple(rng.sample(GROUPS[group], number))
    if rng.random() < 0.5:
        return Exchange(question, f"{capitalised(_listing(chosen))}.")
    return Exchange(question, f"Here are {NUMBER_WORDS[number]} {group}: {_listing(chosen)}.")
