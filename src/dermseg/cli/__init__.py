"""The command ``dermseg``; one module a group of commands, imported only when it is called."""

from dermseg.cli.main import main

__all__ = ["main"]
