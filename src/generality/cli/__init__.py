"""What a person types.

What belongs here: options, their help, and the order in which parts are called; one file a
command. What does not: anything worth calling from Python. To add a command: a file named after
it with a function, and one line in `app.py`.
"""

from generality.cli.app import main

__all__ = ["main"]
