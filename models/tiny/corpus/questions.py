"""All kinds of questions the tiny model can answer, with how often each is asked.

Every kind is a function that takes a random generator and returns a question with a right answer.
Both come in several wordings, so that the model learns the subject and not one sentence.
"""

from .knowledge import (
    about_penstock,
    animal,
    animal_by_sound,
    capital,
    colour,
    concept,
    country_of_capital,
    everyday_topic,
    how_many,
    is_it,
    reason,
    size,
)
from .language import opposite, plural, rhyme, some_of_a_group, spelling, whole_list
from .numbers import compare_numbers, count_down, count_up, month, season, small_sum, weekday
from .small_talk import about_itself, farewell, greeting, mood, say_hello, say_word, thanks
from .texts import advice, joke, small_text, tell_long_story, tell_short_story, verse
from .words import Kind

IN_DOMAIN: tuple[tuple[Kind, float], ...] = (
    (greeting, 1.5),
    (say_hello, 0.5),
    (thanks, 0.9),
    (farewell, 0.7),
    (mood, 0.6),
    (about_itself, 2.6),
    (about_penstock, 2.4),
    (concept, 4.5),
    (everyday_topic, 3.0),
    (reason, 1.3),
    (capital, 3.0),
    (country_of_capital, 0.8),
    (animal, 3.0),
    (animal_by_sound, 0.6),
    (colour, 1.5),
    (is_it, 1.0),
    (weekday, 1.2),
    (month, 1.6),
    (season, 0.4),
    (whole_list, 0.8),
    (some_of_a_group, 1.4),
    (count_up, 4.0),
    (count_down, 0.7),
    (small_sum, 8.0),
    (compare_numbers, 2.2),
    (opposite, 2.0),
    (plural, 1.4),
    (rhyme, 1.4),
    (size, 2.0),
    (how_many, 1.3),
    (spelling, 1.2),
    (advice, 2.6),
    (joke, 0.9),
    (small_text, 1.0),
    (verse, 1.2),
    (say_word, 1.6),
    (tell_short_story, 2.2),
    (tell_long_story, 0.9),
)
