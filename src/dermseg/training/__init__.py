"""Training: a recipe and data sets become a bundle."""
