"""Guess the blur of a whole picture from its spectrum, and take it back as far as the noise allows."""
