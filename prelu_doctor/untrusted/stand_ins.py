"""Inert objects that take the place of what a pickle asks for and nobody needs: they keep nothing and do nothing."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any


class StandIn:
    """Made with any arguments, built from any state, and empty."""

    def __new__(cls, *_arguments: object) -> StandIn:
        """Made as pickles make objects, and by being called."""
        return super().__new__(cls)

    def __init__(self, *_arguments: object) -> None:
        """Takes what the real class would take."""

    def __setstate__(self, _state: object) -> None:
        """Takes what the real class would take."""


class DictStandIn(StandIn):
    """For classes derived from dict: torch's reader fills nothing but dictionaries of its own kinds."""

    def __new__(cls, *_arguments: object) -> Any:
        """A dictionary."""
        return OrderedDict()


class ListStandIn(StandIn):
    """For classes that are filled as lists are."""

    def __new__(cls, *_arguments: object) -> Any:
        """A list."""
        return []
