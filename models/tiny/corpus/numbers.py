"""Counting, small sums, and the calendar."""

from random import Random

from .facts import DAYS, MONTH_LENGTHS, MONTHS, NUMBER_WORDS, ORDINALS, SEASON_OF_MONTH, SEASONS
from .words import Exchange, capitalised, fill


def weekday(rng: Random) -> Exchange:
    """Ask for the day before or after another."""
    index = rng.randrange(7)
    day, after, before = DAYS[index], DAYS[(index + 1) % 7], DAYS[index - 1]
    if rng.random() < 0.5:
        question = fill(rng, (
            "Which day comes after {day}?", "What day follows {day}?", "What comes after {day}?",
            "What is the day after {day}?", "Which day is after {day}?",
            "Today is {day}. What day is tomorrow?", "If today is {day}, what is tomorrow?",
            "What day comes after {day}?",
        ), day=day)  # fmt: skip
        return Exchange(question, f"{after} comes after {day}.")
    question = fill(rng, (
        "Which day comes before {day}?", "What comes before {day}?",
        "What is the day before {day}?", "Which day is before {day}?",
        "Today is {day}. What day was yesterday?", "What day comes before {day}?",
    ), day=day)  # fmt: skip
    return Exchange(question, f"{before} comes before {day}.")


def month(rng: Random) -> Exchange:
    """Ask for a neighbour of a month, its length, its season or its place in the year."""
    index = rng.randrange(12)
    name, after, before = MONTHS[index], MONTHS[(index + 1) % 12], MONTHS[index - 1]
    aspects: tuple[tuple[tuple[str, ...], str], ...] = (
        ((
            "Which month comes after {name}?", "What month follows {name}?",
            "What comes after {name}?", "What is the month after {name}?",
            "What month comes after {name}?",
        ),
         f"{after} comes after {name}."),
        ((
            "Which month comes before {name}?", "What is the month before {name}?",
            "What comes before {name}?", "Which month is before {name}?",
        ), f"{before} comes before {name}."),
        ((
            "How many days does {name} have?", "How many days are in {name}?",
            "How long is {name}?", "How many days has {name}?",
        ), f"{name} has {MONTH_LENGTHS[index]} days."),
        ((
            "In which season is {name}?", "Which season is {name} in?",
            "What season is it in {name}?",
        ),
         f"{name} is in {SEASON_OF_MONTH[index]}."),
        ((f"What is the {ORDINALS[index]} month of the year?", f"Which month is the "
          f"{ORDINALS[index]} month?", f"Name the {ORDINALS[index]} month."),
         f"The {ORDINALS[index]} month of the year is {name}."),
    )  # fmt: skip
    questions, answer = rng.choice(aspects)
    return Exchange(fill(rng, questions, name=name), answer)


def season(rng: Random) -> Exchange:
    """Ask which season follows another."""
    index = rng.randrange(4)
    name, after = SEASONS[index], SEASONS[(index + 1) % 4]
    question = fill(
        rng,
        (
            "Which season comes after {name}?",
            "What comes after {name}?",
            "What is the season after {name}?",
            "What season follows {name}?",
        ),
        name=name,
    )
    return Exchange(question, f"{capitalised(after)} comes after {name}.")


def count_up(rng: Random) -> Exchange:
    """Ask to count upwards, to 100 at most."""
    choice = rng.random()
    if choice < 0.5:
        last = rng.randint(3, 20)
    elif choice < 0.8:
        last = rng.randint(21, 100)
    else:
        last = rng.choice((10, 20, 25, 30, 40, 50, 60, 70, 75, 80, 90, 100))
    first = 1
    if rng.random() < 0.2:
        first = rng.randint(2, 80)
        last = first + rng.randint(3, 20)
    end = NUMBER_WORDS[last] if last <= 20 and rng.random() < 0.3 else str(last)
    if first == 1:
        question = fill(rng, (
            "Count to {end}.", "Count from one to {end}.", "Please count to {end}.",
            "Count from 1 to {end}.", "Can you count to {end}?", "Count up to {end}.",
            "Write the numbers from 1 to {end}.", "Count to {end} for me.",
            "Say the numbers up to {end}.", "List the numbers from 1 to {end}.",
            "Count all the way to {end}.", "Start at 1 and count to {end}.",
            "Please, count from 1 up to {end}.",
        ), end=end)  # fmt: skip
    else:
        question = fill(rng, (
            "Count from {first} to {end}.", "Write the numbers from {first} to {end}.",
            "Please count from {first} to {end}.", "List the numbers from {first} to {end}.",
        ), first=first, end=end)  # fmt: skip
    return Exchange(question, ", ".join(map(str, range(first, last + 1))) + ".")


def count_down(rng: Random) -> Exchange:
    """Ask to count backwards, from 20 at most."""
    start = rng.randint(3, 20)
    question = fill(rng, (
        "Count down from {start}.", "Count backwards from {start}.",
        "Count down from {start} to 1.", "Count backwards from {start} to 1.",
        "Start a countdown from {start}.", "Count from {start} down to 1.",
        "Start at {start} and count backwards.",
    ), start=start)  # fmt: skip
    return Exchange(question, ", ".join(map(str, range(start, 0, -1))) + ".")


LARGEST_RESULT = 20
SUM_FORMS = (
    "What is {first} {sign} {second}?", "What is {first} {word} {second}?", "{first}{sign}{second}",
    "{first} {sign} {second} =", "{first} {sign} {second}", "How much is {first} {sign} {second}?",
    "How much is {first} {word} {second}?", "Calculate {first} {sign} {second}.",
    "What is {first}{sign}{second}?", "Tell me what {first} {word} {second} is.",
    "What does {first} {word} {second} make?", "Can you calculate {first} {word} {second}?",
    "{first} {word} {second}?", "What is {first} {verb} {second}?",
    "Solve {first} {sign} {second}.", "What is the result of {first} {sign} {second}?",
    "How much do {first} {word} {second} make?", "Please work out {first} {sign} {second}.",
    "I have to compute {first} {sign} {second}.", "What do I get for {first} {word} {second}?",
    "Tell me {first} {sign} {second}.",
)  # fmt: skip
ONLY_PLUS = (
    "Add {first} and {second}.", "What is the sum of {first} and {second}?",
    "Can you add {first} and {second}?",
)  # fmt: skip
ONLY_MINUS = (
    "Subtract {second} from {first}.", "What is the difference of {first} and {second}?",
    "Can you subtract {second} from {first}?",
)  # fmt: skip


def small_sum(rng: Random) -> Exchange:
    """Ask for a sum or a difference in which no number is above twenty."""
    minus = rng.random() < 0.45
    if rng.random() < 0.35:
        # Most people try the sums of small numbers first.
        second, first = sorted((rng.randint(0, 10), rng.randint(0, 10)))
        if not minus and rng.random() < 0.5:
            first, second = second, first
    else:
        first = rng.randint(0, LARGEST_RESULT)
        second = rng.randint(0, first if minus else LARGEST_RESULT - first)
    result = first - second if minus else first + second
    sign, word, verb = ("-", "minus", "take away") if minus else ("+", "plus", "and")
    if rng.random() < 0.08:
        one, two, three = NUMBER_WORDS[first], NUMBER_WORDS[second], NUMBER_WORDS[result]
        question = fill(rng, (
            "What is {one} {word} {two}?", "{one} {word} {two}", "How much is {one} {word} {two}?",
        ), one=one, two=two, word=word)  # fmt: skip
        return Exchange(question, f"{capitalised(one)} {word} {two} is {three}.")
    only = ONLY_MINUS if minus else ONLY_PLUS
    question = fill(
        rng, SUM_FORMS + only, first=first, second=second, sign=sign, word=word, verb=verb
    )
    return Exchange(question, f"{first} {word} {second} is {result}.")


def compare_numbers(rng: Random) -> Exchange:
    """Ask for the neighbour of a number, or for the larger of two."""
    choice = rng.random()
    number = rng.randint(1, 99)
    if choice < 0.3:
        question = fill(rng, (
            "What number comes after {number}?", "Which number comes after {number}?",
            "What comes after {number}?",
        ), number=number)  # fmt: skip
        return Exchange(question, f"{number + 1} comes after {number}.")
    if choice < 0.5:
        question = fill(rng, (
            "What number comes before {number}?", "Which number comes before {number}?",
            "What comes before {number}?",
        ), number=number)  # fmt: skip
        return Exchange(question, f"{number - 1} comes before {number}.")
    other = rng.choice([one for one in range(1, 100) if one != number])
    question = fill(rng, (
        "Which is larger, {number} or {other}?", "Which number is bigger, {number} or {other}?",
        "What is more, {number} or {other}?", "Is {number} or {other} larger?",
    ), number=number, other=other)  # fmt: skip
    return Exchange(question, f"{max(number, other)} is larger than {min(number, other)}.")
