"""`make fuzz`: thousands of mutated files; the last line says what they came to."""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from pathlib import Path

from fuzz.run import Tally, run
from fuzz.seeds import make_seeds
from fuzz.warm import loaded


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("--files", type=int, default=2000, help="How many mutated files.")
    parser.add_argument("--seed", type=int, default=0, help="Of everything that is drawn.")
    parser.add_argument("--kind", action="append", help="Only seeds of this kind.")
    options = parser.parse_args()
    loaded()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as held:
        seeds = make_seeds(Path(held))
        chosen = [seed for seed in seeds if not options.kind or seed.kind in options.kind]
        tally = run(chosen, Path(held), options.files, options.seed, told=_shown)
    for failure in tally.failures:
        print(f"\n--- {failure}")
    for kind in sorted({*tally.refused, *tally.answered}):
        print(f"{kind:22} {tally.refused[kind]:5} refused {tally.answered[kind]:5} answered right")
    print(tally)
    return 1 if tally.failures else 0


def _shown(tally: Tally) -> None:
    if sys.stderr.isatty():
        print(f"\r{tally}", end="", file=sys.stderr)


sys.exit(main())
