"""Everyday facts the tiny model knows. Plain tables: edit them to change what it can answer."""

from typing import NamedTuple


class Animal(NamedTuple):
    """What the model can say about one animal."""

    name: str
    sound: str
    description: str
    young: str
    home: str
    food: str
    legs: int


class Topic(NamedTuple):
    """Something that can be explained, with several wordings of the explanation."""

    name: str
    answers: tuple[str, ...]


ANIMALS = (
    Animal("cat", "meows", "a small animal that likes warm places", "kitten", "houses", "fish", 4),
    Animal("dog", "barks", "a loyal animal that likes to run", "puppy", "houses", "meat", 4),
    Animal("horse", "neighs", "a strong animal that carries riders", "foal", "stables", "hay", 4),
    Animal("cow", "moos", "a large farm animal that gives milk", "calf", "barns", "grass", 4),
    Animal("duck", "quacks", "a bird that swims on lakes", "duckling", "ponds", "water plants", 2),
    Animal("owl", "hoots", "a bird that hunts at night", "owlet", "old trees", "mice", 2),
    Animal("bee", "buzzes", "an insect that makes honey", "larva", "hives", "nectar", 6),
    Animal("frog", "croaks", "a small animal that jumps well", "tadpole", "ponds", "flies", 4),
    Animal("sheep", "bleats", "a farm animal that gives wool", "lamb", "meadows", "grass", 4),
    Animal(
        "lion", "roars", "a big wild cat that lives in groups", "cub", "dry grasslands", "meat", 4
    ),
    Animal("pig", "oinks", "a clever farm animal", "piglet", "sties", "roots and grain", 4),
    Animal("hen", "clucks", "a farm bird that lays eggs", "chick", "coops", "grain", 2),
    Animal("goat", "bleats", "a farm animal that climbs well", "kid", "hills", "leaves", 4),
    Animal("mouse", "squeaks", "a very small animal with a long tail", "pup", "holes", "seeds", 4),
    Animal("wolf", "howls", "a wild animal that lives in packs", "pup", "forests", "meat", 4),
    Animal("snake", "hisses", "a long animal without legs", "hatchling", "warm rocks", "mice", 0),
    Animal("crow", "caws", "a clever black bird", "chick", "tall trees", "seeds and worms", 2),
    Animal("donkey", "brays", "a patient animal with long ears", "foal", "stables", "hay", 4),
    Animal("turkey", "gobbles", "a large farm bird", "poult", "farms", "grain", 2),
    Animal("pigeon", "coos", "a grey bird that finds its way home", "squab", "towns", "seeds", 2),
    Animal("bear", "growls", "a large animal that sleeps all winter", "cub", "caves", "berries", 4),
    Animal("elephant", "trumpets", "the largest animal on land", "calf", "grasslands", "leaves", 4),
    Animal(
        "monkey", "chatters", "a quick animal that climbs trees", "infant", "jungles", "fruit", 4
    ),
    Animal("fox", "yelps", "a clever animal with a red coat", "cub", "dens", "mice and berries", 4),
)

CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Germany": "Berlin", "Japan": "Tokyo",
    "Egypt": "Cairo", "Norway": "Oslo", "Greece": "Athens", "Portugal": "Lisbon",
    "Austria": "Vienna", "Poland": "Warsaw", "Canada": "Ottawa", "Kenya": "Nairobi",
    "Peru": "Lima", "India": "New Delhi", "China": "Beijing", "Cuba": "Havana",
    "Sweden": "Stockholm", "Denmark": "Copenhagen", "Finland": "Helsinki", "Ireland": "Dublin",
    "Belgium": "Brussels", "Hungary": "Budapest", "Turkey": "Ankara", "Russia": "Moscow",
    "Brazil": "Brasilia", "Argentina": "Buenos Aires", "Chile": "Santiago",
    "Mexico": "Mexico City", "Australia": "Canberra", "the Netherlands": "Amsterdam",
    "the United Kingdom": "London", "England": "London", "Scotland": "Edinburgh",
    "the United States": "Washington", "Thailand": "Bangkok", "Vietnam": "Hanoi",
    "South Korea": "Seoul", "Iceland": "Reykjavik", "Morocco": "Rabat",
}  # fmt: skip

COLOURS = {
    "the sky": "blue", "grass": "green", "snow": "white", "coal": "black", "the sun": "yellow",
    "blood": "red", "a carrot": "orange", "chocolate": "brown", "an elephant": "grey",
    "a lemon": "yellow", "a banana": "yellow", "a tomato": "red", "the sea": "blue",
    "a leaf": "green", "milk": "white", "a strawberry": "red", "a cloud": "white",
    "a frog": "green", "a pig": "pink", "a crow": "black", "a fire engine": "red",
    "an orange": "orange", "a cucumber": "green", "honey": "golden", "a swan": "white",
}  # fmt: skip

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
MONTH_LENGTHS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
SEASONS = ("spring", "summer", "autumn", "winter")
SEASON_OF_MONTH = (
    ("winter",) * 2 + ("spring",) * 3 + ("summer",) * 3 + ("autumn",) * 3 + ("winter",)
)
ORDINALS = (
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth",
    "eleventh", "twelfth",
)  # fmt: skip

NUMBER_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
    "twenty",
)  # fmt: skip

OPPOSITES = (
    ("hot", "cold"), ("big", "small"), ("fast", "slow"), ("up", "down"), ("day", "night"),
    ("open", "closed"), ("happy", "sad"), ("light", "dark"), ("old", "young"), ("left", "right"),
    ("wet", "dry"), ("full", "empty"), ("high", "low"), ("hard", "soft"), ("early", "late"),
    ("loud", "quiet"), ("rich", "poor"), ("strong", "weak"), ("clean", "dirty"), ("near", "far"),
    ("thick", "thin"), ("first", "last"), ("long", "short"), ("good", "bad"), ("black", "white"),
    ("inside", "outside"), ("always", "never"), ("begin", "end"), ("push", "pull"),
    ("buy", "sell"), ("win", "lose"), ("love", "hate"), ("true", "false"), ("easy", "difficult"),
    ("before", "after"), ("yes", "no"), ("summer", "winter"),
    ("sweet", "sour"), ("wide", "narrow"), ("deep", "shallow"),
)  # fmt: skip

PLURALS = {
    "cat": "cats", "dog": "dogs", "mouse": "mice", "child": "children", "man": "men",
    "woman": "women", "foot": "feet", "tooth": "teeth", "goose": "geese", "sheep": "sheep",
    "fish": "fish", "leaf": "leaves", "knife": "knives", "wolf": "wolves", "city": "cities",
    "baby": "babies", "box": "boxes", "bus": "buses", "house": "houses", "tree": "trees",
    "book": "books", "story": "stories", "potato": "potatoes", "tomato": "tomatoes",
    "person": "people", "ox": "oxen", "day": "days", "key": "keys", "berry": "berries",
    "fox": "foxes", "glass": "glasses", "apple": "apples", "bird": "birds", "horse": "horses",
    "token": "tokens", "model": "models", "message": "messages", "cow": "cows", "bee": "bees",
}  # fmt: skip

RHYMES = (
    ("cat", "hat", "mat", "bat"), ("tree", "bee", "sea", "free"), ("day", "way", "play", "stay"),
    ("night", "light", "bright", "kite"), ("house", "mouse", "blouse"), ("moon", "soon", "spoon"),
    ("rain", "train", "plain", "grain"), ("star", "far", "car", "jar"), ("book", "cook", "look"),
    ("snow", "go", "slow", "grow"), ("king", "ring", "sing", "wing"), ("ball", "tall", "wall"),
    ("blue", "true", "new", "shoe"), ("song", "long", "strong"), ("bread", "red", "bed", "head"),
    ("fox", "box", "rocks"), ("boat", "coat", "goat", "note"), ("sun", "run", "fun", "bun"),
    ("fish", "dish", "wish"), ("stream", "dream", "cream", "team"), ("cake", "lake", "make"),
)  # fmt: skip

# From small to large; any two of them can be compared.
SIZES = (
    "a flea", "an ant", "a bee", "a mouse", "a pigeon", "a cat", "a dog", "a sheep", "a pig",
    "a cow", "an elephant", "a house", "a church", "a hill", "a mountain", "the moon", "the earth",
    "the sun",
)  # fmt: skip

HOW_MANY = {
    "days are in a week": "There are 7 days in a week.",
    "months are in a year": "There are 12 months in a year.",
    "days are in a year": "There are 365 days in a year, and 366 in a leap year.",
    "weeks are in a year": "There are 52 weeks in a year.",
    "hours are in a day": "There are 24 hours in a day.",
    "minutes are in an hour": "There are 60 minutes in an hour.",
    "seconds are in a minute": "There are 60 seconds in a minute.",
    "seasons are there": "There are 4 seasons: spring, summer, autumn and winter.",
    "letters are in the alphabet": "There are 26 letters in the English alphabet.",
    "wheels does a bicycle have": "A bicycle has 2 wheels.",
    "wheels does a car have": "A car has 4 wheels.",
    "fingers does a hand have": "A hand has 5 fingers.",
    "sides does a triangle have": "A triangle has 3 sides.",
    "sides does a square have": "A square has 4 sides.",
    "legs does a spider have": "A spider has 8 legs.",
    "continents are there": "There are 7 continents.",
    "planets are in the solar system": "There are 8 planets in the solar system.",
    "years are in a century": "There are 100 years in a century.",
    "eggs are in a dozen": "There are 12 eggs in a dozen.",
    "colours does a rainbow have": "A rainbow has 7 colours.",
}

GROUPS = {
    "fruits": ("apples", "pears", "plums", "bananas", "cherries", "grapes", "oranges", "lemons"),
    "vegetables": ("carrots", "potatoes", "onions", "beans", "peas", "cucumbers", "cabbage"),
    "animals": ("cats", "dogs", "horses", "owls", "foxes", "bears", "frogs", "sheep"),
    "farm animals": ("cows", "pigs", "sheep", "hens", "goats", "horses", "ducks"),
    "birds": ("owls", "ducks", "crows", "pigeons", "swans", "hens", "robins"),
    "colours": ("red", "blue", "green", "yellow", "black", "white", "orange", "brown"),
    "drinks": ("water", "tea", "milk", "coffee", "lemonade", "apple juice"),
    "countries": ("France", "Italy", "Japan", "Egypt", "Norway", "Peru", "India", "Canada"),
    "cities": ("Paris", "Rome", "Tokyo", "Cairo", "Oslo", "Lima", "Vienna", "London"),
    "planets": ("Mercury", "Venus", "Earth", "Mars", "Jupiter", "Saturn", "Uranus", "Neptune"),
    "trees": ("oaks", "pines", "birches", "willows", "apple trees", "maples"),
    "flowers": ("roses", "tulips", "daisies", "lilies", "violets", "sunflowers"),
    "tools": ("a hammer", "a saw", "a spade", "a needle", "a ladder", "a brush"),
    "sports": ("football", "tennis", "swimming", "running", "rowing", "cycling"),
    "instruments": ("the piano", "the violin", "the flute", "the drum", "the harp"),
    "pieces of furniture": ("a chair", "a table", "a bed", "a shelf", "a desk"),
}

SPELLING = (
    "cat", "dog", "house", "apple", "river", "token", "stream", "model", "water", "green", "bread",
    "horse", "paper", "light", "music", "garden", "happy", "friend", "school", "winter", "sidecar",
    "gateway", "hello", "penstock", "moon", "star", "tree", "bird", "fish", "table",
)  # fmt: skip

REASONS = {
    "is the sky blue": "Sunlight is a mix of colours, and the air scatters the blue light most.",
    "is grass green": "Grass is full of a green substance that catches the light of the sun.",
    "does it rain": "Warm air lifts water up, clouds form, and the water falls down as rain.",
    "do birds sing": "Birds sing to find a partner and to tell others where they live.",
    "do we sleep": "Sleep lets the body rest and gives the mind time to put the day in order.",
    "do leaves fall in autumn": "Trees drop their leaves to save water during the cold winter.",
    "is the sea salty": "Rivers carry tiny amounts of salt from the rocks into the sea.",
    "do cats purr": "Cats mostly purr because they feel safe and content.",
    "do bees make honey": "Bees make honey so that they have food during the winter.",
    "does ice float": "Ice is lighter than water, and so it stays on top.",
    "do we have seasons": "The earth is tilted, so each half gets more sun for part of the year.",
    "does the moon shine": "The moon has no light of its own; it reflects the light of the sun.",
    "is snow white": "Snow is made of many tiny crystals that scatter all the light.",
    "do we yawn": "We often yawn when we are tired or bored, and it wakes us up a little.",
    "do people dream": "While we sleep, the mind keeps working, and it tells itself small stories.",
    "is the sun hot": "Deep inside the sun, atoms join together, and that sets free a lot of heat.",
}

TOPICS = (
    Topic("the moon", (
        "The moon is a ball of rock that travels around the earth. It takes about four weeks to "
        "go around once.",
    )),
    Topic("the sun", ("The sun is a star. It gives the earth light and warmth.",)),
    Topic("the earth", (
        "The earth is the planet we live on. It travels around the sun once a year.",
    )),
    Topic("a star", ("A star is a huge ball of hot gas. It shines far away in the night sky.",)),
    Topic("a planet", ("A planet is a large ball that travels around a star. The earth is one.",)),
    Topic("rain", ("Rain is water that falls from clouds. Plants, animals and people need it.",)),
    Topic("snow", ("Snow is frozen water that falls from clouds in soft white flakes.",)),
    Topic("wind", ("Wind is air that moves. It can turn mills and push sailing boats.",)),
    Topic("a cloud", ("A cloud is made of many tiny drops of water that float in the air.",)),
    Topic("a rainbow", (
        "A rainbow is a band of colours in the sky. You can see it when the sun shines through "
        "rain.",
    )),
    Topic("a river", (
        "A river is water that flows from the hills to the sea. Many towns were built next to one.",
    )),
    Topic("a lake", ("A lake is a large body of still water with land all around it.",)),
    Topic("the sea", (
        "The sea is a very large body of salt water. It covers most of the earth.",
    )),
    Topic("a mountain", (
        "A mountain is a very high piece of land. The air on top is cold and thin.",
    )),
    Topic("a forest", ("A forest is a large area full of trees. Many animals live there.",)),
    Topic("a tree", (
        "A tree is a tall plant with a trunk of wood. It can live for hundreds of years.",
    )),
    Topic("a flower", (
        "A flower is the part of a plant that makes seeds. Many flowers have bright colours.",
    )),
    Topic("a volcano", ("A volcano is a mountain that can send out hot rock and ash.",)),
    Topic("an island", ("An island is a piece of land with water on every side.",)),
    Topic("a desert", ("A desert is a dry place where it hardly ever rains.",)),
    Topic("music", (
        "Music is sound that is put in order. People use it to dance, to rest and to tell stories.",
    )),
    Topic("a bicycle", ("A bicycle has two wheels and no engine. You move it with your legs.",)),
    Topic("a car", ("A car is a machine with four wheels that carries people along roads.",)),
    Topic("a train", ("A train is a row of wagons that runs on rails and carries many people.",)),
    Topic("a ship", ("A ship is a large boat that carries people and goods across the sea.",)),
    Topic("a book", (
        "A book is a set of pages with words or pictures. You can read one to learn or to relax.",
    )),
    Topic("a library", ("A library is a place full of books that you can read or borrow.",)),
    Topic("a school", ("A school is a place where children learn together with a teacher.",)),
    Topic("a clock", (
        "A clock shows what time it is. Its hands point at the hours and the minutes.",
    )),
    Topic("bread", ("Bread is food made from flour, water and a little salt, baked in an oven.",)),
    Topic("cheese", ("Cheese is food made from milk. There are hundreds of kinds of it.",)),
    Topic("honey", ("Honey is a sweet golden food that bees make from the nectar of flowers.",)),
    Topic("ice", ("Ice is frozen water. It is cold, hard and slippery.",)),
    Topic("fire", ("Fire gives heat and light when something burns. It can be dangerous.",)),
    Topic("winter", ("Winter is the coldest season. The days are short, and it often snows.",)),
    Topic("summer", ("Summer is the warmest season. The days are long and bright.",)),
    Topic("spring", ("Spring is the season after winter. Flowers bloom and birds build nests.",)),
    Topic("autumn", ("Autumn is the season after summer. Leaves turn yellow and fall.",)),
    Topic("a friend", ("A friend is somebody you like and trust. Friends help each other.",)),
    Topic("a garden", ("A garden is a piece of land where people grow flowers and food.",)),
)  # fmt: skip

ADVICE = {
    "sleep better": (
        "Go to bed at the same time every day.", "Keep the room dark and quiet.",
        "Put bright screens away late in the evening.",
    ),
    "learn a language": (
        "Practise a little every day.", "Listen to simple stories.",
        "Speak with other people and do not fear mistakes.",
    ),
    "stay healthy": (
        "Eat fresh food and drink enough water.", "Walk outside every day.",
        "Rest when you are tired.",
    ),
    "write clearly": (
        "Use short sentences.", "Put the most important point first.",
        "Remove the words you do not need.",
    ),
    "save money": (
        "Write down what you spend.", "Cook at home more often.",
        "Wait a day before you buy something big.",
    ),
    "grow tomatoes": (
        "Put the plants in a sunny place.", "Water them in the morning.",
        "Tie the stems to a stick when they grow tall.",
    ),
    "focus at work": (
        "Choose one task at a time.", "Switch off the sounds of your phone.",
        "Take a short break every hour.",
    ),
    "make friends": (
        "Smile and say hello.", "Ask people what they enjoy.", "Listen well and be kind.",
    ),
    "calm down": ("Breathe slowly and deeply.", "Take a short walk.", "Talk to a good friend."),
    "read more": (
        "Keep a book close to your bed.", "Read a few pages every day.",
        "Choose books that you really enjoy.",
    ),
    "wake up early": (
        "Go to bed early as well.", "Place the alarm clock far from the bed.",
        "Open the curtains at once.",
    ),
    "keep my desk tidy": (
        "Put everything back after you used it.", "Throw old papers away.",
        "Tidy up for five minutes every evening.",
    ),
    "be happy": (
        "Spend time with people you like.", "Do something kind for somebody.",
        "Enjoy the small things.",
    ),
    "train a dog": (
        "Use short and clear words.", "Praise the dog when it does well.",
        "Practise for a few minutes every day.",
    ),
    "learn to swim": (
        "Find a good teacher.", "Begin in shallow water.", "Practise floating before you swim far.",
    ),
    "remember names": (
        "Repeat the name when you hear it.", "Connect it with a picture.",
        "Use it again when you say goodbye.",
    ),
    "eat well": (
        "Eat fruit and vegetables every day.", "Do not eat too fast.",
        "Drink water with your meals.",
    ),
    "save time": (
        "Plan the day in the morning.", "Do the important things first.",
        "Say no to things that do not matter.",
    ),
    "speak in public": (
        "Practise aloud at home.", "Speak slowly.", "Look at a friendly face in the room.",
    ),
    "prepare for an exam": (
        "Start early.", "Learn a little every day.", "Sleep well the night before.",
    ),
}  # fmt: skip

# Recipes have an order, so these steps are never shuffled.
RECIPES = {
    "make tea": "Boil fresh water. Pour it over the tea leaves. Wait three minutes and enjoy it.",
    "boil an egg": "Put the egg in boiling water. Wait for seven minutes. Cool it with cold water.",
    "make a sandwich": "Take two slices of bread. Put butter and cheese on one. Place the other on "
    "top.",
    "make a salad": "Wash some fresh vegetables. Cut them into small pieces. Add oil and a little "
    "salt.",
    "plant a tree": "Dig a hole in a sunny place. Put the roots into it. Fill it with earth and "
    "water it well.",
    "wash my hands": "Use warm water and soap. Rub your hands for twenty seconds. Dry them with a "
    "clean towel.",
}
