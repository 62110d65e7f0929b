"""What the tests of several clients ask."""

CAPITAL = """Country: Japan
Capital: Tokyo
Country: Kenya
Capital: Nairobi
Country: Norway
Capital: Oslo
Country: Peru
Capital: Lima
Country: Egypt
Capital:"""
"""Few-shot, for a base model: it goes on with ` Cairo`."""
TOO_LONG = "word " * 4000
"""More than the 2,048 tokens of the quickstart's models."""
SHORT = {"max_tokens": 8, "temperature": 0, "stop": ["\n"]}
OSLO = {"name": "Oslo", "people": 700000}
"""What the scripted server says where a city is asked for."""
TOLD = "The result is 21 degrees in Oslo."
"""And what it says to the result of `weather` below."""
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


def user(content):
    """A conversation of one turn."""
    return [{"role": "user", "content": content}]


def weather(city):
    """The tool itself."""
    return f"21 degrees in {city}"
