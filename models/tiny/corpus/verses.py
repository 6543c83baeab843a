"""Jokes, short poems and small talk: texts that are learned by heart."""

JOKES = (
    "Why did the token cross the stream? To get to the other side.",
    "Why was the server so calm? It had no pending requests.",
    "What did the cat say to the queue? I will wait, but only in the sun.",
    "Why did the owl become a clerk? It liked the night shift.",
    "Why was the clock sent home? It kept running.",
    "Why do bees hum? Because they forgot the words.",
    "What does a cloud wear under its coat? Thunderwear.",
    "Why was the sidecar happy? It always had company.",
    "Why did the frog miss the bus? It was not in a jumping mood.",
    "What is a computer's favourite snack? A small byte.",
    "Why did the book go to the doctor? It had hurt its spine.",
    "Why are ghosts bad at telling lies? You can see right through them.",
)

# By subject, so that a poem can be asked for by what it is about.
HAIKU = {
    "rain": "Soft rain on the hill,\na small frog sits by the lake,\nthe evening is calm.",
    "snow": "Snow on the still road,\none light in a far window,\nsomeone is awake.",
    "an owl": "The old tree listens,\nan owl calls across the field,\nthe moon is rising.",
    "a boat": "A boat in the mist,\nthe harbour bell rings softly,\nthe gulls fly away.",
    "the sea": "Waves come and then go,\nthe sea writes upon the sand,\nno one reads it twice.",
    "summer": "Green leaves in the wind,\nthe summer afternoon waits,\na bee finds its flower.",
    "tokens": "Words flow like water,\none token after the next,\nthe stream finds the sea.",
    "autumn": "Yellow leaves come down,\nthe garden gate stands open,\nautumn steps inside.",
}

POEMS = {
    "the river": (
        "The river sings a quiet song,\nthe wind is soft, the day is long,\n"
        "the birds fly home above the tree,\nand all the world is calm and free."
    ),
    "a star": (
        "A little star looked down one night\nand filled the garden with its light.\n"
        "The flowers woke and had to stay\nawake until the break of day."
    ),
    "rain": (
        "The rain is tapping on the roof,\nit sounds just like a horse's hoof.\n"
        "I close my book, I close my eyes,\nand dream of blue and sunny skies."
    ),
    "the moon": (
        "The moon is a lamp in the hall of the night,\n"
        "it shines on the hills with a silvery light.\n"
        "The fox in the meadow, the owl in the tree,\nlook up for a moment and wonder like me."
    ),
    "the sea": (
        "The sea has a thousand songs to sing,\nof boats and of birds and of everything.\n"
        "I sat on the sand and I listened all day,\nand one of the songs I have taken away."
    ),
    "tokens": (
        "A token is small, but it is not alone,\nit follows the others and never its own.\n"
        "Together they travel, together they stream,\nand make up a letter, a song or a dream."
    ),
}

RIDDLES = (
    "What has hands but cannot clap? A clock.",
    "What gets wetter the more it dries? A towel.",
    "What has a neck but no head? A bottle.",
    "What has many teeth but cannot bite? A comb.",
    "What goes up and never comes down? Your age.",
    "What has keys but opens no door? A piano.",
)

FUN_FACTS = (
    "An owl can turn its head almost all the way round.",
    "Honey can stay good for many years.",
    "A snail has thousands of tiny teeth.",
    "Bees dance to tell each other where the flowers are.",
    "Ducks have feathers that stay dry in the water.",
    "A cat sleeps for more than half of its life.",
    "Light from the sun needs about eight minutes to reach the earth.",
    "No two snowflakes look quite the same.",
)

KIND_WORDS = (
    "You ask good questions, and I like that.",
    "Every small step counts, and you are doing well.",
    "You are doing better than you think.",
    "It is nice to talk with you.",
    "A kind word costs nothing, so here is one for you: well done!",
)

MOTTOES = (
    "Small steps lead far.", "Be kind, and be patient.", "One thing after another.",
    "Every long story begins with one word.", "Keep it simple, and keep it clear.",
)  # fmt: skip

WORDS = (
    "apple", "river", "window", "garden", "stone", "bread", "lamp", "letter", "cloud", "forest",
    "table", "silver", "morning", "bridge", "music", "paper", "island", "candle", "feather",
)  # fmt: skip

SENTENCES = (
    "The cat sleeps in the warm sun.", "A small boat sails on the lake.",
    "The old clock on the wall is slow.", "My friend plays the flute in the garden.",
    "The train arrives in the morning.", "We walked home through the snow.",
    "A bee sits on the yellow flower.", "The library is open until the evening.",
    "An owl watches the quiet forest.", "The baker sells fresh bread.",
)  # fmt: skip
