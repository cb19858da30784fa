"""Data sets: where their files lie, which split an image belongs to, and a cache of resized pixels."""
