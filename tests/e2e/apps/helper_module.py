"""A helper module, to see that the project is shipped as a whole."""

FACTOR = 3


def times(value):
    return value * FACTOR
