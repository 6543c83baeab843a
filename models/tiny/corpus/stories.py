"""Short and long stories, assembled from sentences with interchangeable parts."""

from random import Random

from .facts import ANIMALS
from .words import with_article

PEOPLE = (
    "Anna", "Ben", "Clara", "David", "Ella", "Felix", "Grace", "Hugo", "Iris", "Jack", "Kate",
    "Leo", "Mia", "Noah", "Olga", "Paul", "Rosa", "Sam", "Tina", "Will", "Adam", "Bella", "Carl",
    "Diana", "Emma", "Frank", "Gina", "Henry", "Ida", "John", "Lily", "Mark", "Nina", "Oscar",
    "Peter", "Ruth", "Simon", "Tom", "Vera", "Walter", "Zoe",
)  # fmt: skip
PLACES = (
    "the river", "the old market", "the forest", "the harbour", "the small library", "the hill",
    "the garden", "the railway station", "the lake", "the village", "the mountain", "the beach",
    "the castle", "the old mill", "the island", "the lighthouse", "the school", "the farm",
)  # fmt: skip
THINGS = (
    "a silver key", "an old map", "a red kite", "a lost letter", "a wooden box", "a tiny bell",
    "a torn photograph", "a blue stone", "a golden ring", "a small lantern", "a strange book",
)  # fmt: skip
FOODS = ("bread", "soup", "apples", "cheese", "rice", "cake", "honey", "tea", "salad", "pancakes")
WEATHER = (
    "It was a bright morning", "It was a cold evening", "Rain was falling",
    "The sun was going down", "A soft wind was blowing", "Snow covered the road",
)  # fmt: skip
FEELINGS = ("happy", "tired", "curious", "calm", "proud", "surprised", "worried", "brave")
ANIMAL_NAMES = tuple(animal.name for animal in ANIMALS)
# The model knows nothing about these, but they may walk through its stories.
OTHER_CREATURES = (
    "dragon", "rabbit", "squirrel", "tiger", "parrot", "turtle", "hedgehog", "pony", "kitten",
    "puppy", "robot", "unicorn", "giraffe", "camel", "swan", "goose", "beaver", "badger", "deer",
    "otter", "whale", "penguin", "kangaroo", "snail", "spider", "raven", "eagle", "lamb", "ghost",
    "giant", "dwarf", "fairy", "zebra", "crocodile", "dolphin", "seal", "mole", "hamster",
)  # fmt: skip

SHORT_STORY: tuple[tuple[str, ...], ...] = (
    (
        "{weather} when {hero} walked to {place}.", "One day {hero} went to {place}. {weather}.",
    ),
    (
        "There {hero} met {friend} and a friendly {animal}.",
        "A {animal} followed {hero} all the way.",
        "{hero} sat down next to a {animal} and looked around.",
        "A {animal} came closer and was not afraid at all.",
    ),
    (
        "Under a tree {hero} found {thing}.", "Near the path lay {thing}.",
        "Somebody had left {thing} on a bench.",
    ),
    (
        "{hero} felt {feeling} and called {friend}.",
        "{hero} was {feeling} but did not say a word.", '"Look at this," said {hero} to {friend}.',
    ),
    (
        "Together they shared some {food} and talked until it was dark.",
        "In the end they went home and had {food} for dinner.",
        "{friend} smiled and gave everyone some {food}.",
    ),
    (
        "It was a day they would never forget.", "From then on they were good friends.",
        "And the next morning everything began again.",
    ),
)  # fmt: skip

# One tuple of paragraphs per stage of the journey, in a fixed order, so that a long story moves on
# and does not turn in circles even when the model always picks the likeliest word.
LONG_STORY: tuple[tuple[tuple[str, ...], ...], ...] = (
    (
        (
            "Once upon a time there was a child called {hero}, who lived in a small house near "
            "{place}.",
            "A long time ago, {hero} lived in a little town not far from {place}.",
            "There was once a young person called {hero}, whose house stood close to {place}.",
        ),
        (
            "{hero} had a {animal}, and the two of them did everything together.",
            "The best friend of {hero} was a {animal} that could almost speak.",
            "Every morning a {animal} waited at the door, and {hero} gave it some {food}.",
        ),
        (
            "Life was quiet, and one day was much like the other.",
            "Nothing much happened there, and the days passed slowly.",
            "People worked hard, went to bed early, and hardly ever asked questions.",
        ),
    ),
    (
        (
            "One morning {hero} found {thing} in front of the door.",
            "One evening {hero} opened a drawer and found {thing} inside.",
            "One day, while it was raining, {hero} discovered {thing} under the stairs.",
        ),
        (
            "Nobody knew where it came from, and nobody had seen it before.",
            "It was very old, and a name was written on it: {friend}.",
            "It shone in the light as if it wanted to tell a secret.",
        ),
        (
            '"We must find out who has lost it," said {hero}, and the {animal} seemed to agree.',
            '"This belongs to somebody," said {hero}. "Let us bring it back."',
            "{hero} felt {feeling}, packed some {food} into a bag, and left the house at once.",
        ),
    ),
    (
        (
            "First they walked to {second_place}, where an old woman sold {food}.",
            "The first day led them to {second_place}, where they met an old man with a white "
            "beard.",
            "The road took them to {second_place}, and there they asked everybody they met.",
        ),
        (
            '"I have seen such a thing before," came the answer, "but that was many years ago."',
            '"You have a long way to go," they heard, "but you are on the right road."',
            '"Ask at {third_place}," somebody told them, "there they know everything."',
        ),
        (
            "They said thank you, shared some {food}, and went on.",
            "{hero} thanked them politely, and the journey went on.",
            "So they rested for an hour, drank some water, and walked on.",
        ),
    ),
    (
        (
            "In the afternoon dark clouds came up, and soon it began to rain.",
            "Then a strong wind began to blow, and the path became hard to see.",
            "After some hours the road came to an end, and there was only tall grass.",
        ),
        (
            "{hero} was {feeling}, but the {animal} walked ahead and found a dry place under a "
            "rock.",
            "The {animal} pulled at the coat of {hero} and led the way to an empty hut.",
            "They held on to each other, took one step after another, and did not give up.",
        ),
        (
            "They waited there until it was over, and they told each other stories.",
            "Inside it was warm, and the two of them slept deeply until the morning.",
            "When it was over, a rainbow stood above the hills, and everything smelled fresh.",
        ),
    ),
    (
        (
            "The next day they came to {third_place}.",
            "On the second day they reached {third_place}.",
            "Early in the morning they saw {third_place} in front of them.",
        ),
        (
            "A person with a friendly face sat there and was mending a net.",
            "Somebody was sitting there alone, looking at the water and humming a song.",
            "There stood a small house with a green door, and smoke rose from the roof.",
        ),
        (
            "It was {friend}. {friend} looked up, saw what {hero} was carrying, and began to "
            "smile.",
            "The name of this person was {friend}, and {friend} knew at once why they had come.",
            '"My name is {friend}," said a voice, "and I have been waiting for you."',
        ),
    ),
    (
        (
            '"I lost it when I was a child," said {friend}. "I never thought I would see it '
            'again."',
            '"It belonged to my grandmother," said {friend}. "She told me that it would come '
            'back."',
            '"I gave it to the wind many years ago," said {friend}, "to see who would bring it '
            'back."',
        ),
        (
            "{hero} handed it over, and for a moment nobody said a word.",
            "{hero} put it on the table, and the {animal} sat down beside it.",
            "{hero} listened carefully and asked many questions.",
        ),
        (
            "Then {friend} cooked some {food}, and they ate together and laughed.",
            "Then {friend} brought some {food}, and they talked until the stars came out.",
            "That evening they sat around a fire, and {friend} sang an old song.",
        ),
    ),
    (
        (
            "After three days it was time to go home.", "But soon {hero} began to think of home.",
            "When the week was over, {hero} and the {animal} had to say goodbye.",
        ),
        (
            "{friend} gave them a warm coat, a lamp, and good advice for the road.",
            "{friend} walked with them as far as {second_place} and waved for a long time.",
            '"Come back in the spring," said {friend}, and they promised it.',
        ),
        (
            "The way home seemed much shorter, as it often does.",
            "On the way back the sun was shining, and they knew every tree and every stone.",
            "They were tired, but they walked quickly and sang all the way.",
        ),
    ),
    (
        (
            "At home everybody wanted to hear what had happened, and {hero} told it again and "
            "again.",
            "Back at home the house looked smaller than before, but the door was open.",
            "When they arrived, a light was burning in the window, and dinner was on the table.",
        ),
        (
            "From that day on {hero} was no longer afraid of long roads.",
            "Since then {hero} and {friend} have written a letter to each other every month.",
            "And since that day {hero} has looked twice at every small thing on the ground.",
        ),
        (
            "And if you pass by {place} one day, you may still see {hero} and the {animal} there.",
            "And that is the end of the story, or perhaps the beginning of another one.",
            "They all lived happily, and the {animal} got the warmest place in the house.",
        ),
    ),
)  # fmt: skip


def _fill_in(sentence: str, slots: dict[str, str]) -> str:
    text = sentence.format(**slots)
    # A template says "a {animal}"; an owl and an elephant need "an".
    for article in ("a ", "A "):
        plain = article + slots["animal"]
        proper = with_article(slots["animal"])
        text = text.replace(plain, article[0] + proper[1:])
    return text


def _slots(
    rng: Random, hero: str | None, place: str | None, animal: str | None, thing: str | None
) -> dict[str, str]:
    hero = hero or rng.choice(PEOPLE)
    place = place or rng.choice(PLACES)
    second_place, third_place = rng.sample([other for other in PLACES if other != place], 2)
    return {
        "hero": hero,
        "friend": rng.choice([person for person in PEOPLE if person != hero]),
        "place": place,
        "second_place": second_place,
        "third_place": third_place,
        "animal": animal or rng.choice((*ANIMAL_NAMES, *OTHER_CREATURES)),
        "thing": thing or rng.choice(THINGS),
        "food": rng.choice(FOODS),
        "feeling": rng.choice(FEELINGS),
        "weather": rng.choice(WEATHER),
    }


def short_story(
    rng: Random,
    hero: str | None = None,
    place: str | None = None,
    animal: str | None = None,
    thing: str | None = None,
) -> str:
    """Return a story of six or seven sentences."""
    slots = _slots(rng, hero, place, animal, thing)
    return " ".join(_fill_in(rng.choice(choices), slots) for choices in SHORT_STORY)


def long_story(
    rng: Random,
    hero: str | None = None,
    place: str | None = None,
    animal: str | None = None,
    thing: str | None = None,
) -> str:
    """Return a story of eight paragraphs, about 400 tokens."""
    slots = _slots(rng, hero, place, animal, thing)
    paragraphs = []
    for stage in LONG_STORY:
        slots["food"] = rng.choice(FOODS)
        paragraphs.append(" ".join(_fill_in(rng.choice(choices), slots) for choices in stage))
    return "\n\n".join(paragraphs)
