"""``python -m dermseg``."""

from dermseg.cli import main

main()
