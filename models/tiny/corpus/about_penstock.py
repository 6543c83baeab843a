"""What the tiny model says about Penstock and about serving language models."""

from .facts import Topic

PENSTOCK = Topic(
    "Penstock",
    (
        "Penstock is one typed gRPC endpoint for every language model. Behind it can be hosted "
        "models, local servers, and models on your own CPU or GPU.",
        "Penstock is a gateway: one typed gRPC endpoint in front of every language model, "
        "whether it is hosted, on a local server, or on your own machine.",
        "Penstock gives you one typed gRPC endpoint for all language models. A model on your "
        "own CPU or GPU runs in a separate sidecar process.",
    ),
)
SIDECAR = Topic(
    "a sidecar",
    (
        "A sidecar is a separate process that runs next to the main program. In Penstock, each "
        "model on your own CPU or GPU runs in a sidecar.",
        "A sidecar is a helper process beside the main one. Penstock runs each of your own "
        "models in a sidecar, so that using it is truly asynchronous I/O.",
    ),
)
CONCEPTS = (
    PENSTOCK,
    SIDECAR,
    Topic("streaming", (
        "Streaming means that the answer is sent in small pieces as soon as they are ready.",
        "With streaming, you see the first words of an answer before the last ones are written.",
    )),
    Topic("a token", (
        "A token is a small piece of text, often a word or a part of a word. A language model "
        "reads and writes tokens.",
        "A token is the smallest piece of text that a language model works with.",
    )),
    Topic("a gateway", (
        "A gateway is a program that stands between clients and servers and passes requests on "
        "to the right place.",
        "A gateway is one door to many services. Clients talk to it, and it finds the right "
        "server.",
    )),
    Topic("gRPC", (
        "gRPC is a way for programs to call each other over a network with typed messages.",
        "gRPC lets one program call a function of another program over the network. Its "
        "messages have fixed types.",
    )),
    Topic("a deadline", (
        "A deadline is the point in time by which an answer must be ready. After it, the call "
        "is stopped.",
        "A deadline says how long a caller is willing to wait for an answer.",
    )),
    Topic("a prompt", (
        "A prompt is the text that you give to a language model. The model continues it.",
        "A prompt is what you write to a language model, for example a question.",
    )),
    Topic("a language model", (
        "A language model is a program that predicts the next token of a text. By doing this "
        "again and again it writes whole answers.",
        "A language model is a program that has learned from text which word is likely to come "
        "next.",
    )),
    Topic("a large language model", (
        "A large language model is a language model with billions of learned numbers. It knows "
        "far more than I do.",
    )),
    Topic("a tokenizer", (
        "A tokenizer cuts text into tokens and turns each token into a number.",
        "A tokenizer turns text into a list of numbers for the model, and back again.",
    )),
    Topic("a chat template", (
        "A chat template is a rule that turns a list of messages into one text for the model.",
    )),
    Topic("a system prompt", (
        "A system prompt is a first message that tells a model how it should behave.",
    )),
    Topic("a context window", (
        "The context window is the number of tokens that a model can look at at once.",
    )),
    Topic("temperature", (
        "The temperature says how freely a model picks its words. A low temperature makes the "
        "answers steady, a high one makes them varied.",
    )),
    Topic("sampling", (
        "Sampling means that a model picks the next token at random from the likely ones.",
    )),
    Topic("greedy decoding", (
        "Greedy decoding means that a model always picks the most likely next token.",
    )),
    Topic("a stop sequence", (
        "A stop sequence is a piece of text that ends an answer as soon as it appears.",
    )),
    Topic("batching", (
        "Batching means that several requests are computed together. It makes good use of the "
        "machine.",
    )),
    Topic("continuous batching", (
        "With continuous batching, a new request can join the batch after any step, and a "
        "finished one leaves it at once.",
    )),
    Topic("a cache", (
        "A cache keeps things that were used before close at hand, so that the next use is faster.",
    )),
    Topic("a GPU", (
        "A GPU is a chip that does many small computations at the same time. Large models run "
        "well on it.",
    )),
    Topic("a CPU", (
        "A CPU is the main chip of a computer. It follows instructions one after another, very "
        "quickly.",
    )),
    Topic("a server", (
        "A server is a program that waits for requests and answers them. Many clients can use "
        "it at once.",
    )),
    Topic("a client", (
        "A client is a program that sends requests to a server and uses the answers.",
    )),
    Topic("an endpoint", ("An endpoint is an address at which a program can be reached.",)),
    Topic("a request", ("A request is a message that asks a server to do something.",)),
    Topic("a response", ("A response is the message that a server sends back after a request.",)),
    Topic("a typed API", (
        "In a typed API every field of a message has a known type, so many mistakes are found "
        "early.",
    )),
    Topic("a protocol buffer", (
        "A protocol buffer is a compact message whose fields and types are described in a file.",
    )),
    Topic("asynchronous I/O", (
        "With asynchronous I/O a program does not stand still while it waits. It does other "
        "work until the data is there.",
    )),
    Topic("a process", ("A process is a running program with its own memory.",)),
    Topic("a thread", (
        "A thread is a line of work inside a process. Threads share their memory.",
    )),
    Topic("a queue", (
        "A queue is a line of things that wait for their turn. The first to come is the first "
        "to leave.",
    )),
    Topic("cancellation", (
        "Cancellation means that a caller no longer wants the answer, so the work is stopped.",
    )),
    Topic("a retry", ("A retry is a second attempt after a request has failed.",)),
    Topic("a timeout", ("A timeout ends a call that takes too long.",)),
    Topic("a rate limit", (
        "A rate limit says how many requests a client may send in a given time.",
    )),
    Topic("latency", ("Latency is the time between a request and its answer.",)),
    Topic("throughput", ("Throughput is the amount of work that is done in a given time.",)),
    Topic("an embedding", (
        "An embedding is a list of numbers that stands for the meaning of a text.",
    )),
    Topic("a health check", (
        "A health check is a small request that asks whether a server is well and ready.",
    )),
    Topic("a log", ("A log is a list of notes that a program writes about what it does.",)),
    Topic("an API key", (
        "An API key is a secret text that tells a server who is calling. Keep it safe.",
    )),
    Topic("a hosted model", (
        "A hosted model runs on the computers of somebody else, and you reach it over the "
        "internet.",
    )),
    Topic("a local model", (
        "A local model runs on your own computer, so your text stays with you.",
    )),
    Topic("a neural network", (
        "A neural network is a program made of many simple units. It learns its numbers from "
        "examples.",
    )),
    Topic("training", (
        "Training means that a model reads many examples and changes its numbers until its "
        "guesses get better.",
    )),
    Topic("a parameter", ("A parameter is one of the numbers that a model has learned.",)),
    Topic("quantization", (
        "Quantization stores the numbers of a model with fewer bits, so that it needs less memory.",
    )),
    Topic("back pressure", ("Back pressure means that a slow reader makes a fast writer wait.",)),
    Topic("a database", (
        "A database is a place where data is kept in order, so that it can be found again.",
    )),
    Topic("the internet", (
        "The internet is a network of networks. It lets computers all over the world exchange "
        "messages.",
    )),
    Topic("a computer", (
        "A computer is a machine that follows instructions. It can add numbers, store data and "
        "show pictures.",
    )),
    Topic("open source", (
        "Open source software is software whose code everybody may read, use and change.",
    )),
)  # fmt: skip

# (questions, answers): any question of a row fits any answer of that row.
PENSTOCK_QUESTIONS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (
        (
            "What does Penstock do?", "What is Penstock for?", "Who needs Penstock?",
            "Why should I use Penstock?", "What is Penstock good for?",
            "Tell me about this gateway.", "What is the purpose of Penstock?",
            "What am I talking to?", "What is this server?",
        ),
        PENSTOCK.answers,
    ),
    (
        (
            "Why does Penstock use sidecars?", "Why do models run in a sidecar?",
            "Why is there a separate process for each model?", "What is a sidecar good for?",
            "Why does each model run in its own process?", "What does a sidecar do?",
            "How does Penstock run models on my own GPU?", "How does Penstock run local models?",
        ),
        (
            "Computing keeps a processor busy. In a sidecar, the model works in a separate "
            "process, and for the gateway it is just asynchronous I/O.",
            "Penstock runs each model on your own CPU or GPU in a separate sidecar process. So "
            "the gateway never has to stand still.",
        ),
    ),
    (
        (
            "Which models can Penstock use?", "What models does Penstock support?",
            "Which language models work with Penstock?", "What can be behind Penstock?",
            "Does Penstock work with local models?", "Does Penstock work with hosted models?",
        ),
        ("Penstock can use hosted models, local servers, and models on your own CPU or GPU.",),
    ),
    (
        (
            "How do I talk to Penstock?", "How do I use Penstock?", "How can I call Penstock?",
            "Which protocol does Penstock use?", "Does Penstock use gRPC?",
            "What is the package name of Penstock?", "How do clients reach Penstock?",
        ),
        ("You talk to Penstock with gRPC. Its package is called penstock.v1.",),
    ),
    (
        (
            "What does the word penstock mean?", "Where does the name Penstock come from?",
            "Why is it called Penstock?", "What is a penstock in a dam?",
            "What is a penstock pipe?",
        ),
        (
            "A penstock is a pipe or a gate that leads water from a dam to a turbine. Penstock "
            "leads text in the same way.",
        ),
    ),
    (
        (
            "How do I connect a larger model?", "How can I get better answers?",
            "How can I use a bigger model?", "Why are your answers so simple?",
            "Can I use a larger model with Penstock?", "Can you connect me to a better model?",
        ),
        (
            "I am only the small built-in model. Connect a larger model to Penstock, and send "
            "your question to it.",
            "Add a larger model to Penstock and choose it in your request. I am only a small "
            "demonstration.",
        ),
    ),
    (
        (
            "How is an answer made?", "How does a language model write?",
            "How do language models work?", "How does text generation work?",
            "What happens when I send you a message?",
        ),
        (
            "The tokenizer cuts your text into tokens. Then the model picks one next token "
            "after another until the answer is complete.",
        ),
    ),
    (
        (
            "What is the difference between a token and a word?", "Is a token a word?",
            "Are tokens words?",
        ),
        ("A token can be a word, but a long or rare word is often cut into several tokens.",),
    ),
    (
        ("What is the difference between a CPU and a GPU?", "CPU or GPU, what is the difference?"),
        (
            "A CPU does a few things very quickly, one after another. A GPU does many small "
            "things at the same time.",
        ),
    ),
    (
        ("What is the difference between a client and a server?",),
        ("A client sends requests, and a server answers them.",),
    ),
    (
        (
            "What happens after the deadline?", "What happens when a deadline passes?",
            "What happens when a call takes too long?",
        ),
        ("When the deadline has passed, the call is stopped and the caller gets an error.",),
    ),
    (
        (
            "Why is streaming useful?", "Why should I stream an answer?",
            "What is the use of streaming?",
        ),
        (
            "With streaming, the reader sees the first words at once and does not have to wait "
            "for the end.",
        ),
    ),
)  # fmt: skip
