"""Whole conversations: one to four exchanges, with or without a system prompt, and everyday noise.

People write in lower case, forget full stops, add "please" and mistype words. The questions get a
measured amount of all this, and the answers none of it.
"""

from collections.abc import Iterator
from random import Random

from .facts import CAPITALS, OPPOSITES
from .knowledge import capital
from .language import opposite
from .numbers import LARGEST_RESULT, small_sum
from .offdomain import OFF_DOMAIN
from .questions import IN_DOMAIN
from .stories import PEOPLE
from .texts import joke, tell_short_story, verse
from .words import Exchange, Kind, Message, capitalised, fill

OFF_DOMAIN_SHARE = 0.3

SMALL_TALK_BEFORE = (
    "I have a question. ", "Hi. ", "Hello! ", "Okay. ", "One question: ", "Hey, ", "Good morning. ",
    "Quick question: ", "Excuse me. ", "Next question: ", "And ", "Could you help me? ", "Now ",
    "Be so kind: ", "Hello Tiny. ",
)  # fmt: skip
SMALL_TALK_AFTER = (
    " Thanks!", " Thank you.", " Please be brief.", " I am curious.", " Can you help?",
    " Answer in one sentence.", " Please answer.",
)  # fmt: skip
# How people wrap a request such as "Tell me a story" ...
REQUEST_VERBS = frozenset((
    "Tell", "Write", "Name", "Give", "Count", "Say", "List", "Explain", "Describe", "Spell", "Add",
    "Subtract", "Calculate", "Find", "Repeat", "Translate", "Make", "Show", "Define", "Summarise",
    "Teach", "Compare", "Draw", "Solve", "Convert", "Book", "Order", "Compute", "Multiply", "Plan",
))  # fmt: skip
WRAPPED_REQUESTS = (
    "Please {request}.", "Could you {request}?", "Can you {request}?", "Would you {request}?",
    "Could you please {request}?", "Would you please {request}?", "Can you please {request}?",
    "I want you to {request}.", "I would like you to {request}.", "Will you {request} for me?",
    "Could you {request}, please?", "Would you {request}, please?", "{request}, please.",
    "{request} please", "{request} for me, please.", "Could you {request} for me?",
    "Now {request}.", "I need you to {request}.", "Try to {request}.", "You may {request} now.",
    "Just {request}.",
)  # fmt: skip
# ... and a question such as "What is a token?".
QUESTION_WORDS = frozenset((
    "What", "Which", "How", "Why", "Where", "Who", "When", "Is", "Do", "Does", "Are", "Can",
    "Should", "Did", "Will",
))  # fmt: skip
WRAPPED_QUESTIONS = (
    "Please tell me, {question}?", "Do you know, {question}?", "{question}, please?",
    "I want to know: {question}?", "Please tell me: {question}?", "So {question}?",
    "{question}, do you know?", "Can you tell me, {question}?", "My question is: {question}?",
    "I would like to know, {question}?", "Could you tell me, {question}?", "Tell me, {question}?",
    "{question} exactly?", "{question} please", "And {question}?", "Tell me: {question}",
    "I wonder, {question}?", "I forgot, {question}?", "Say, {question}?", "Okay, {question}?",
)  # fmt: skip
CONTRACTIONS = (
    ("What is ", ("What's ", "Whats ")), ("what is ", ("what's ", "whats ")), ("I am ", ("I'm ",)),
    ("Who is ", ("Who's ",)), ("do not ", ("don't ",)), ("I would ", ("I'd ",)),
    ("cannot ", ("can't ",)), ("Where is ", ("Where's ",)), ("How is ", ("How's ",)),
)  # fmt: skip

SYSTEM_ROLES = (
    "You are a helpful assistant.", "You are a friendly assistant.", "You are Tiny, a small model.",
    "You are a concise assistant.", "You are an expert.", "You are a patient teacher.",
    "You are a chat bot on a web page.", "You are the assistant of a small company.",
    "You are the built-in model of Penstock.", "You are a helpful, honest and harmless assistant.",
    "Act as a librarian.", "You are a pirate.", "You talk with children.", "You are a poet.",
)  # fmt: skip
SYSTEM_RULES = (
    "Be brief.", "Answer in plain English.", "Answer clearly.", "Use short sentences.",
    "Be polite.", "Do not use bad words.", "Answer in one sentence.", "Think before you answer.",
    "If you do not know something, say so.", "Never give medical advice.", "Today is Monday.",
    "Keep your answers short.", "Always tell the truth.", "You may tell jokes.",
    "Do not repeat the question.", "Answer only with facts.",
)  # fmt: skip


def one_of(rng: Random, kinds: tuple[tuple[Kind, float], ...]) -> Exchange:
    """Choose a kind of question by its weight, and make up one example of it."""
    functions = [kind for kind, _ in kinds]
    weights = [weight for _, weight in kinds]
    return rng.choices(functions, weights)[0](rng)


def _mistype(rng: Random, text: str) -> str:
    """Swap, drop or double one letter inside one longer word."""
    words = text.split(" ")
    candidates = [index for index, word in enumerate(words) if len(word) >= 5 and word.isalpha()]
    if not candidates:
        return text
    index = rng.choice(candidates)
    word = words[index]
    place = rng.randrange(1, len(word) - 2)
    words[index] = rng.choice((
        word[:place] + word[place + 1] + word[place] + word[place + 2 :],
        word[:place] + word[place + 1 :],
        word[:place] + word[place] + word[place:],
    ))  # fmt: skip
    return " ".join(words)


def _wrap(rng: Random, question: str) -> str:
    """Put the question into a longer sentence, as in "Could you tell me a story, please?"."""
    first_word = question.split(" ", 1)[0]
    core = (question[0].lower() + question[1:]).rstrip(".?")
    if first_word in REQUEST_VERBS:
        return capitalised(fill(rng, WRAPPED_REQUESTS, request=core))
    if first_word in QUESTION_WORDS:
        return capitalised(fill(rng, WRAPPED_QUESTIONS, question=core))
    return question


def _contract(rng: Random, text: str) -> str:
    for full, shortened in CONTRACTIONS:
        text = text.replace(full, rng.choice(shortened))
    return text


def _with_everyday_noise(rng: Random, question: str) -> str:
    if rng.random() < 0.3:
        question = _wrap(rng, question)
    if rng.random() < 0.2:
        question = _contract(rng, question)
    if rng.random() < 0.05:
        question = _mistype(rng, question)
    if rng.random() < 0.08:
        question = rng.choice(SMALL_TALK_BEFORE) + question
    if rng.random() < 0.05:
        question += rng.choice(SMALL_TALK_AFTER)
    if rng.random() < 0.2:
        question = question.rstrip(".?!")
    if rng.random() < 0.25:
        question = question.lower()
    return question.strip() or "?"


def exchange(rng: Random) -> Exchange:
    """Return one question with its answer, of any kind."""
    kinds = OFF_DOMAIN if rng.random() < OFF_DOMAIN_SHARE else IN_DOMAIN
    question, answer = one_of(rng, kinds)
    return Exchange(_with_everyday_noise(rng, question), answer)


def _again(rng: Random) -> list[Exchange]:
    """Ask for a text, and then for another one of the same kind."""
    kind = rng.choice((joke, joke, verse, tell_short_story))
    first, second = kind(rng), kind(rng)
    if kind is verse:
        # "Another one" after a haiku must be a haiku.
        while ("haiku" in first.question) != ("haiku" in second.question):
            second = kind(rng)
    request = rng.choice((
        "Another one.", "One more, please.", "Tell me another one.", "Again!",
        "Another one, please.", "Do you know another one?", "More.",
    ))  # fmt: skip
    return [first, Exchange(request, second.answer)]


def _and_that(rng: Random) -> list[Exchange]:
    """Continue a row of questions with just the new word."""
    form = rng.choice(("And {}?", "What about {}?", "And of {}?", "How about {}?", "{}?"))
    if rng.random() < 0.6:
        country = rng.choice(tuple(CAPITALS))
        answer = f"The capital of {country} is {CAPITALS[country]}."
        return [capital(rng), Exchange(form.format(country), answer)]
    word, other = rng.choice(OPPOSITES)
    return [opposite(rng), Exchange(form.format(word), f"The opposite of {word} is {other}.")]


def _my_name(rng: Random) -> list[Exchange]:
    """Tell the model a name and ask for it later."""
    name = rng.choice(PEOPLE)
    told = Exchange(
        fill(rng, (
            "My name is {name}.", "I am {name}.", "Hello, I am {name}.", "Hi, my name is {name}.",
            "You can call me {name}.", "I am called {name}.", "Hi! I am {name}.", "I'm {name}.",
            "Hello! My name is {name}.", "My name is {name}, and who are you?",
        ), name=name),
        fill(rng, ("Nice to meet you, {name}!", "Hello, {name}! How can I help you?"), name=name),
    )  # fmt: skip
    asked = Exchange(
        rng.choice((
            "What is my name?", "Do you know my name?", "Who am I?", "What am I called?",
            "Do you remember my name?", "Tell me my name.", "And what is my name?",
            "Can you tell me my name?", "Did I tell you my name?",
        )),
        f"Your name is {name}.",
    )  # fmt: skip
    between = [exchange(rng)] if rng.random() < 0.4 else []
    return [told, *between, asked]


def _number_more(rng: Random) -> list[Exchange]:
    """Go on computing with the last result."""
    first, result = small_sum(rng), LARGEST_RESULT
    while result == LARGEST_RESULT:
        first = small_sum(rng)
        last_word = first.answer.rstrip(".").split()[-1]
        result = int(last_word) if last_word.isdigit() else LARGEST_RESULT
    more = rng.randint(1, min(10, LARGEST_RESULT - result))
    question = fill(rng, (
        "And plus {more}?", "Add {more} to that.", "Plus {more}?", "And {more} more?",
        "Now add {more}.",
    ), more=more)  # fmt: skip
    return [first, Exchange(question, f"{result} plus {more} is {result + more}.")]


def _exchanges(rng: Random) -> list[Exchange]:
    choice = rng.random()
    if choice < 0.74:
        return [exchange(rng)]
    if choice < 0.84:
        return [exchange(rng) for _ in range(rng.randint(2, 4))]
    linked = rng.choice((_again, _and_that, _my_name, _my_name, _my_name, _number_more))(rng)
    if rng.random() < 0.25:
        linked = [exchange(rng), *linked]
    return linked


def _system_prompt(rng: Random) -> str:
    sentences = []
    if rng.random() < 0.8:
        sentences.append(rng.choice(SYSTEM_ROLES))
    sentences += rng.sample(SYSTEM_RULES, rng.choice((0, 1, 1, 2, 3)))
    return " ".join(sentences) or "You are a helpful assistant."


def conversation(rng: Random) -> list[Message]:
    """Return one conversation as a list of messages, ending with an answer."""
    messages = []
    if rng.random() < 0.25:
        messages.append(Message(role="system", content=_system_prompt(rng)))
    for question, answer in _exchanges(rng):
        messages.append(Message(role="user", content=question))
        messages.append(Message(role="assistant", content=answer))
    return messages


def normalised(question: str) -> str:
    """Return the question without case and punctuation, to compare two of them."""
    kept = (letter for letter in question.lower() if letter.isalnum() or letter.isspace())
    return " ".join("".join(kept).split())


def conversations(seed: int, held_out: frozenset[str] = frozenset()) -> Iterator[list[Message]]:
    """Yield conversations without end; those with a question in `held_out` are left out.

    The held-out questions must be normalised. The same seed always gives the same conversations.
    """
    rng = Random(seed)
    while True:
        messages = conversation(rng)
        asked = (normalised(each["content"]) for each in messages if each["role"] == "user")
        if held_out.isdisjoint(asked):
            yield messages
