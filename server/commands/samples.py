"""What is measured where nobody names prompts: beginnings of code, and things that a user says."""

from server.commands.prompts import Prompt

CODE = tuple(
    Prompt(text)
    for text in (
        'def word_count(path):\n    """Count the words of a text file."""\n    counts = {}\n',
        "class Account:\n    def __init__(self, owner, balance=0):\n        self.owner = owner\n",
        "import os\nimport sys\n\n\ndef main(argv=None):\n    parser = argparse.ArgumentParser(",
    )
)

BEGINNINGS = tuple(
    Prompt(text)
    for text in (
        'def fibonacci(n: int) -> int:\n    """Return the n-th Fibonacci number."""\n',
        "import argparse\nimport json\nfrom pathlib import Path\n\n\ndef main() -> None:\n",
        'class Stack:\n    """A last-in, first-out list."""\n\n    def __init__(self):\n',
        "def merge_sorted(left, right):\n    result = []\n    i = j = 0\n    while",
        "class TestParser(unittest.TestCase):\n    def test_empty(self):\n"
        "        self.assertEqual(",
        'def read_lines(path, encoding="utf-8"):\n    """Yield the stripped lines of a file."""\n',
        "    def __repr__(self):\n        return",
        "try:\n    import numpy as np\nexcept ImportError:\n",
    )
)
"""More of the same, of all sorts."""

_REPORT = (
    "The library on Mill Street was closed for nine weeks after a pipe burst above the reading "
    "room. Most of the books on the upper shelves were dry, but some four hundred had to be frozen "
    "and dried slowly. The city paid for a new roof, and volunteers typed the catalogue anew. It "
    "opens again on Monday, with longer hours in the evening and a room for schools."
)

CHAT = (
    Prompt("How do I keep basil alive on a kitchen window that faces north?", "chat"),
    Prompt("Write a short letter to a neighbour whose dog barks at night. Be kind.", "chat"),
    Prompt("Translate into English: Der Zug nach Leipzig fährt heute später ab.", "translation"),
    Prompt(f"Summarize in two sentences: {_REPORT}", "summary"),
    Prompt(
        f"{_REPORT}\n\nHow many books had to be frozen, and who typed the catalogue?", "reading"
    ),
    Prompt("Which planet has the longest day, and how long is it?", "question"),
    Prompt("A shelf holds 7 boxes of 12 jars. 15 jars break. How many are left? Explain.", "maths"),
    Prompt("Write a Python function that reverses the words of a sentence.", "code"),
)
"""By category, as `--chat` sends them through the model's template."""
