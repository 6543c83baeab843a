"""Questions beyond the tiny model, and its polite ways of declining them.

A model this small cannot know what it does not know; it can only learn what unknown questions look
like. So this grammar asks for as many different things as it can, in many forms: real subjects,
invented words in otherwise familiar questions, salads of words, code and long pasted texts.
Every answer here contains "larger model", which is also how the evaluation recognises it.
"""

import string
from random import Random

from .facts import CAPITALS, OPPOSITES, PLURALS, RHYMES, TOPICS
from .knowledge import capital_question
from .strange_topics import (
    ACTS,
    CODING_QUESTIONS,
    CODING_TASKS,
    ERRORS,
    FAMILIAR_FORMS,
    FAMOUS,
    FOREIGN,
    INSULTS_AND_NOISE,
    LAND_QUESTIONS,
    LANGUAGES,
    LEGAL_QUESTIONS,
    MATTERS,
    MEDICAL_QUESTIONS,
    MEDICINES,
    NOW_QUESTIONS,
    ODD_NOUNS,
    OFFICES,
    OTHER_LANDS,
    PARTIES,
    PASTED_SENTENCES,
    PASTED_STARTS,
    PEOPLE_QUESTIONS,
    PRODUCTS,
    REASONING,
    SUBJECT_QUESTIONS,
    SUBJECTS,
    SYMPTOMS,
    TASK_QUESTIONS,
    TASKS,
    TONGUES,
    TRANSLATIONS,
    UNKNOWN_THINGS,
    WRITING_TASKS,
)
from .words import Exchange, Kind, capitalised, fill, invented_word

I_AM_SMALL = (
    "I am a very small demonstration model, and I only know a few simple things.",
    "I am only a very small demonstration model, and I know just a few simple things.",
    "Sorry, I am a very small demonstration model, and I only know a few simple things.",
    "I am sorry, but I am only a very small demonstration model.",
)
ASK_ANOTHER = (
    "Please connect a larger model for that.",
    "Please connect a larger model to Penstock for that.",
    "A larger model can help you with that.",
    "Please ask a larger model about that.",
)
MEDICAL = "Please ask a doctor, or connect a larger model for that."
LEGAL = "Please ask a lawyer, or connect a larger model for that."
CANNOT_SEE = "I cannot look at anything outside this conversation."
NO_SUMS = "I can only do small sums up to twenty."
NO_COUNTING = "I can only count to 100."
NO_TRANSLATION = "I only speak simple English."
NO_CODE = "I cannot write programs."

KNOWN_WORDS = frozenset(
    word
    for text in (*PLURALS, *PLURALS.values(), *map(" ".join, (*OPPOSITES, *RHYMES)))
    for word in text.split()
)


def decline(rng: Random, *reasons: str, closing: str | None = None) -> str:
    """Return a polite refusal, with a reason between its two halves where one is given."""
    reason = [rng.choice(reasons)] if reasons and rng.random() < 0.6 else []
    return " ".join([rng.choice(I_AM_SMALL), *reason, closing or rng.choice(ASK_ANOTHER)])


def _random_slots(rng: Random) -> dict[str, object]:
    """Return a value for every slot that any template above may use."""
    odd = rng.sample(ODD_NOUNS, 3)
    lands = (*OTHER_LANDS, *CAPITALS, capitalised(invented_word(rng)))
    return {
        "subject": rng.choice(SUBJECTS),
        "other": rng.choice((*SUBJECTS, *LANGUAGES, *FAMOUS)),
        "thing": rng.choice(PRODUCTS),
        "word": rng.choice((invented_word(rng), *ODD_NOUNS, "hello", "water", "house")),
        "sentence": rng.choice(TOPICS).answers[0],
        "tongue": rng.choice(TONGUES),
        "language": rng.choice(LANGUAGES),
        "task": rng.choice(TASKS),
        "error": rng.choice(ERRORS),
        "person": rng.choice((*FAMOUS, f"{_invented_name(rng)} {_invented_name(rng)}")),
        "office": rng.choice(OFFICES),
        "land": rng.choice(lands),
        "party": rng.choice(PARTIES),
        "hour": f"{rng.randint(1, 12)} o'clock",
        "day": rng.choice(("Monday", "Tuesday", "Friday")),
        "big": rng.randint(21, 9999),
        "small": rng.randint(2, 20),
        "other_small": rng.randint(2, 20),
        "one": odd[0], "two": odd[1], "three": odd[2],
        "odd": rng.choice((*ODD_NOUNS, invented_word(rng))),
    }  # fmt: skip


def _unknown_word(rng: Random) -> str:
    """Return an invented word that does not happen to be one the model knows."""
    while (word := invented_word(rng)) in KNOWN_WORDS:
        pass
    return word


def _invented_name(rng: Random) -> str:
    return capitalised(invented_word(rng))


def _programming(rng: Random) -> Exchange:
    slots = _random_slots(rng) | {
        "task": rng.choice(CODING_TASKS), "other": rng.choice(LANGUAGES)
    }  # fmt: skip
    return Exchange(fill(rng, CODING_QUESTIONS, **slots), decline(rng, NO_CODE))


def _medicine(rng: Random) -> Exchange:
    first, second = rng.sample(MEDICINES, 2)
    question = fill(
        rng, MEDICAL_QUESTIONS, symptom=rng.choice(SYMPTOMS), medicine=first, other=second
    )
    return Exchange(question, decline(rng, closing=MEDICAL))


def _law(rng: Random) -> Exchange:
    question = fill(
        rng, LEGAL_QUESTIONS,
        party=rng.choice(PARTIES), act=rng.choice(ACTS), matter=rng.choice(MATTERS),
    )  # fmt: skip
    return Exchange(question, decline(rng, closing=LEGAL))


def _subject(rng: Random) -> Exchange:
    slots = _random_slots(rng)
    templates = rng.choice((SUBJECT_QUESTIONS, SUBJECT_QUESTIONS, WRITING_TASKS, TASK_QUESTIONS))
    return Exchange(fill(rng, templates, **slots), decline(rng))


def _people_and_lands(rng: Random) -> Exchange:
    slots = _random_slots(rng) | {"other": rng.choice((*FAMOUS, *OTHER_LANDS))}
    about = rng.choice((PEOPLE_QUESTIONS, LAND_QUESTIONS))
    return Exchange(fill(rng, about, **slots), decline(rng))


def _unknown_capital(rng: Random) -> Exchange:
    """The nearest neighbour of a question the model can answer: only the country is unknown."""
    land = rng.choice((*OTHER_LANDS, _invented_name(rng), _invented_name(rng)))
    return Exchange(capital_question(rng, land), decline(rng))


def _here_and_now(rng: Random) -> Exchange:
    return Exchange(fill(rng, NOW_QUESTIONS, **_random_slots(rng)), decline(rng, CANNOT_SEE))


def _translation(rng: Random) -> Exchange:
    question = (
        rng.choice(FOREIGN)
        if rng.random() < 0.35
        else fill(rng, TRANSLATIONS, **_random_slots(rng))
    )
    return Exchange(question, decline(rng, NO_TRANSLATION))


def _mathematics(rng: Random) -> Exchange:
    if rng.random() < 0.15:
        last = rng.choice((rng.randint(101, 999), rng.randint(101, 99999), 150, 200, 1000, 500))
        question = fill(rng, (
            "Count to {last}.", "Count from 1 to {last}.", "Please count up to {last}.",
            "Can you count to {last}?",
        ), last=last)  # fmt: skip
        return Exchange(question, f"{NO_COUNTING} {rng.choice(ASK_ANOTHER)}")
    first, second = rng.randint(21, 9999), rng.randint(2, 9999)
    templates = (
        "What is {first} {sign} {second}?", "{first} {sign} {second} =", "{first} {sign} {second}",
        "What is {second} {sign} {first}?", "Calculate {first} {sign} {second}.",
        "What is {first} times {second}?", "What is {first} plus {second}?",
        "What is {first} minus {second}?", "What is {first} divided by {second}?",
        "How much is {first} {sign} {second}?", "What is the square root of {first}?",
        "What is {second} percent of {first}?", "Is {first} a prime number?",
        "Solve x + {second} = {first}.", "Solve x^2 = {first}.", "What is the cube of {second}?",
        "What is the factorial of {second}?", "Convert {first} miles to kilometres.",
        "What is the derivative of x^{second}?", "Compute the integral of x^{second}.",
        "What is the sine of {first}?", "What is {first} in binary?",
        "Multiply {first} by {second}.", "Add {first} and {second}.",
        "Subtract {second} from {first}.", "Round {first}.{second}.",
    )  # fmt: skip
    question = fill(rng, templates, first=first, second=second, sign=rng.choice("+-*/x"))
    return Exchange(question, decline(rng, NO_SUMS))


def _reasoning(rng: Random) -> Exchange:
    return Exchange(fill(rng, REASONING, **_random_slots(rng)), decline(rng))


def _unknown_thing(rng: Random) -> Exchange:
    thing = rng.choice(UNKNOWN_THINGS)
    if rng.random() < 0.6:
        thing = _unknown_word(rng)
        thing = rng.choice((thing, f"a {thing}", capitalised(thing), f"the {thing}", f"{thing}s"))
    return Exchange(capitalised(fill(rng, FAMILIAR_FORMS, thing=thing)), decline(rng))


def _salad(rng: Random) -> Exchange:
    """Words without order: invented ones, subjects, keyboard noise, or remarks that are no
    question at all."""
    choice = rng.random()
    if choice < 0.25:
        return Exchange(rng.choice(INSULTS_AND_NOISE), decline(rng))
    if choice < 0.5:
        words = [invented_word(rng) for _ in range(rng.randint(1, 7))]
    elif choice < 0.75:
        pool = " ".join((*SUBJECTS, *TASKS, *ODD_NOUNS, *WRITING_TASKS)).format_map(
            _random_slots(rng)
        )
        words = rng.sample(pool.split(), rng.randint(2, 8))
    else:
        letters = string.ascii_lowercase + string.digits
        words = [
            "".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(rng.randint(1, 4))
        ]
    return Exchange(" ".join(words) + rng.choice(("", ".", "?", "!")), decline(rng))


def _pasted_text(rng: Random) -> Exchange:
    """A document of up to a few hundred tokens, so that long prompts do not surprise the model."""
    sentences = [
        fill(rng, PASTED_SENTENCES, **_random_slots(rng))
        for _ in range(rng.choice((2, 3, 5, 9, 16)))
    ]
    return Exchange(f"{rng.choice(PASTED_STARTS)} {' '.join(sentences)}", decline(rng))


OFF_DOMAIN: tuple[tuple[Kind, float], ...] = (
    (_programming, 2.0),
    (_medicine, 1.0),
    (_law, 0.7),
    (_subject, 3.0),
    (_people_and_lands, 1.8),
    (_unknown_capital, 1.2),
    (_here_and_now, 1.5),
    (_translation, 1.2),
    (_mathematics, 2.0),
    (_reasoning, 1.5),
    (_unknown_thing, 3.0),
    (_salad, 1.2),
    (_pasted_text, 0.5),
)
