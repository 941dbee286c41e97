"""Silence around code that talks: exporters print, log and warn on whatever streams they find."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Swallow prints, log records and warnings of the block; streams, loggers and filters are restored after it.

    The sink takes any text, so that the exporter's emoji cannot fail on an ASCII terminal.
    """
    sink = io.StringIO()
    disabled = logging.root.manager.disable
    with warnings.catch_warnings(), contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(disabled)
