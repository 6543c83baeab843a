"""Greetings, thanks and goodbyes, and what the model says about itself."""

from random import Random

from .about_itself import SELF_QUESTIONS
from .facts import SPELLING
from .stories import ANIMAL_NAMES, PEOPLE
from .verses import FUN_FACTS, MOTTOES, SENTENCES, WORDS
from .words import Exchange, capitalised, fill


def greeting(rng: Random) -> Exchange:
    """Say hello, or ask how the model is."""
    hello = rng.choice((
        "Hello", "Hi", "Hi there", "Hey", "Hello there", "Good morning", "Hey there",
        "Good evening", "Good afternoon", "Good day", "Greetings", "Nice to meet you", "Hi hi",
        "Hello Tiny", "Hello Penstock", "Howdy", "Hi Tiny",
    ))  # fmt: skip
    if rng.random() < 0.3:
        question = hello + rng.choice((
            ", how are you?", "! How are you?", ", how is it going?", ", how do you do?",
            ". How are you today?",
        ))  # fmt: skip
        return Exchange(question, rng.choice((
            "Hello! I am fine, thank you. How can I help you?",
            "Hi! I am well, thank you. What would you like to know?",
        )))  # fmt: skip
    if rng.random() < 0.15:
        question = rng.choice((
            "How are you?", "How are you today?", "How do you do?", "What is up?",
            "How is it going?", "Are you well?", "How are things?",
        ))  # fmt: skip
        return Exchange(question, rng.choice((
            "I am fine, thank you. How can I help you?", "Very well, thank you. And you?",
        )))  # fmt: skip
    return Exchange(hello + rng.choice(("!", ".", "", ", can you help me?", "!!")), rng.choice((
        "Hello! How can I help you today?",
        "Hi! I am a very small language model. What would you like to talk about?",
        "Hello! Ask me about Penstock, animals, countries or numbers, or ask me for a story.",
    )))  # fmt: skip


def say_hello(rng: Random) -> Exchange:
    """Ask the model to say hello."""
    question = rng.choice((
        "Say hello.", "Say hello in one sentence.", "Greet me.", "Say hi.", "Please say hello.",
        "Just say hello.", "Say hello to me.", "Reply with hello.", "Say hello in five words.",
    ))  # fmt: skip
    return Exchange(question, rng.choice(("Hello!", "Hello, it is nice to meet you!")))


def thanks(rng: Random) -> Exchange:
    """Thank the model or praise it."""
    question = rng.choice((
        "Thank you", "Thanks", "Thanks a lot", "Thank you very much", "Thank you so much",
        "Many thanks", "Great, thanks", "That was helpful", "Well done", "Perfect, thank you",
        "Good answer", "Very nice, thank you", "Great", "Nice", "Cool", "Wonderful",
        "That is right", "I like that", "Good job", "Ok thanks", "That helps", "Awesome", "Thx",
        "Ty", "Thanks for the help", "Thank you, that is kind",
    ))  # fmt: skip
    return Exchange(question + rng.choice((".", "!", "")), rng.choice((
        "You are welcome!", "You are welcome! Is there anything else you would like to know?",
        "My pleasure! Just ask if you would like to know more.",
    )))  # fmt: skip


def farewell(rng: Random) -> Exchange:
    """Say goodbye."""
    question = rng.choice((
        "Goodbye", "Bye", "Bye bye", "See you later", "See you tomorrow", "Good night",
        "I have to go now", "Take care", "Farewell", "That is all", "I am done for today",
        "See you soon", "Have a nice day", "See you on Monday", "Bye now", "Goodbye Tiny",
        "Until next time", "I am leaving now",
    ))  # fmt: skip
    return Exchange(question + rng.choice((".", "!", "")), rng.choice((
        "Goodbye! Have a nice day.", "Goodbye, and take care!", "See you soon! Have a good day.",
    )))  # fmt: skip


def mood(rng: Random) -> Exchange:
    """Tell the model about a feeling."""
    feeling, answer = rng.choice((
        (
            "sad",
            "I am sorry that you are sad. A walk, some music or a talk with a friend may help.",
        ),
        ("tired", "Then take a break. A short rest, some water and fresh air can help."),
        ("bored", "Let us do something about it. Ask me for a story, a joke or a riddle!"),
        ("happy", "That is nice to hear! I hope the day stays just as good."),
        ("angry", "Breathe slowly and count to ten. A short walk may help as well."),
        (
            "lonely",
            "I am glad that you write to me. Perhaps a friend would like to hear from you, too.",
        ),
        ("nervous", "Breathe slowly, and take one small step at a time. You can do it."),
        ("hungry", "Then it is time to eat. How about bread, cheese and some fruit?"),
    ))  # fmt: skip
    question = fill(rng, (
        "I am {feeling}.", "I feel {feeling}.", "I am so {feeling} today.",
        "I am {feeling}, what should I do?", "Today I feel very {feeling}.",
        "I am feeling {feeling}.",
    ), feeling=feeling)  # fmt: skip
    return Exchange(question, answer)


def about_itself(rng: Random) -> Exchange:
    """Ask the model about itself."""
    questions, answers = rng.choice(SELF_QUESTIONS)
    return Exchange(rng.choice(questions), rng.choice(answers))


def say_word(rng: Random) -> Exchange:
    """Repeating a word teaches the model to copy from the question."""
    choice = rng.random()
    if choice < 0.5:
        text = rng.choice((*WORDS, *ANIMAL_NAMES, *PEOPLE, *SPELLING))
        question = fill(rng, (
            "Say the word {text}.", "Say {text}.", "Repeat the word {text}.",
            "Repeat after me: {text}", "Write the word {text}.", "Say: {text}",
            "Please say {text}.", "Answer with the word {text}.",
        ), text=text)  # fmt: skip
        return Exchange(question, f"{capitalised(text)}.")
    text = rng.choice((*SENTENCES, *MOTTOES, *FUN_FACTS))
    question = fill(rng, (
        "Repeat after me: {text}", "Repeat this sentence: {text}", "Say this: {text}",
        "Please repeat: {text}",
    ), text=text)  # fmt: skip
    return Exchange(question, text)
