"""The global random generators, lent to the user's code and put back."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


class OwnRandomness:
    """A seeded random state of torch (CPU), NumPy and Python, global only while it is active.

    Args:
        seed: The same seed gives the same draws, whatever was drawn elsewhere in between.
    """

    def __init__(self, seed: int) -> None:
        outer = _states()
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        self._states = _states()
        _restore(outer)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Go on with this state, and give the caller's back at the end, also when the code inside raises."""
        outer = _states()
        _restore(self._states)
        try:
            yield
        finally:
            self._states = _states()
            _restore(outer)


def _states() -> tuple[Any, Any, Any]:
    return torch.default_generator.get_state(), np.random.get_state(), random.getstate()


def _restore(states: tuple[Any, Any, Any]) -> None:
    torch_state, numpy_state, python_state = states
    torch.default_generator.set_state(torch_state)
    np.random.set_state(numpy_state)
    random.setstate(python_state)
