"""The part of an agent that only keeps files: it drives no runtime. Python 3.6."""


def versions():
    return {}
