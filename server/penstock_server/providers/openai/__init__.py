"""OpenAI's two APIs, Responses and Chat Completions, and everybody who speaks the second."""
