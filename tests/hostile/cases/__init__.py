"""The cases, a module for each part of the list."""

from . import harm, limits, refusals, screens, words


def all_cases():
    for module in (harm, words, refusals, limits, screens):
        yield from module.cases()
