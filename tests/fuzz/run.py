"""A seeded run over mutated files of every kind."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fuzz.mutations import mutated
from fuzz.seeds import Seed
from fuzz.trial import Outcome, tried


@dataclass
class Tally:
    """What a run came to.

    Attributes:
        refused: Files that ended in one message, by kind.
        answered: Files that were read and answered right, by kind.
        failures: What went wrong, one text a file.
        peak: Largest memory of any file, in bytes.
        longest: Longest time of any file, in seconds.
    """

    refused: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    peak: int = 0
    longest: float = 0.0

    def add(self, seed: Seed, name: str, outcome: Outcome) -> None:
        """Counts one file."""
        self.peak = max(self.peak, outcome.peak)
        self.longest = max(self.longest, outcome.seconds)
        if outcome.wrong:
            self.failures.append(f"{seed.kind}, {name}: {outcome.wrong}\n{outcome.stderr[-2000:]}")
        else:
            (self.answered if outcome.code == 0 else self.refused)[seed.kind] += 1

    def __str__(self) -> str:
        """The summary line."""
        refused, answered = self.refused.total(), self.answered.total()
        kinds = len({*self.refused, *self.answered})
        return (
            f"{refused + answered + len(self.failures)} files of {kinds} kinds: {refused} refused with one message, "
            f"{answered} answered right, {len(self.failures)} failures; "
            f"at most {self.longest:.1f} s and {self.peak / 2**20:.0f} MiB a file"
        )


def mutants(seeds: list[Seed], folder: Path, count: int, seed: int) -> list[tuple[Seed, str, str, bytes]]:
    """Seeds in turn, each with one file of it harmed: the seed, the harm, the file's name, its bytes."""
    rng = random.Random(seed)
    made = []
    for index in range(count):
        one = seeds[index % len(seeds)]
        file = rng.choice(_files(one, folder))
        name, content = mutated((folder / file).read_bytes(), rng)
        made.append((one, f"{name} of {file} ({index})", file, content))
    return made


def _files(seed: Seed, folder: Path) -> list[str]:
    """The files that a seed consists of: those of its folder, or a file and what stands beside it by its name."""
    path = folder / seed.path
    home = path if path.is_dir() else path.parent
    files = home.iterdir() if home == folder else home.rglob("*")
    named = (file for file in files if home != folder or file.name.startswith(path.name))
    return sorted(str(file.relative_to(folder)) for file in named if file.is_file())


def run(
    seeds: list[Seed], folder: Path, count: int, seed: int, *, told: Callable[[Tally], None] = lambda tally: None
) -> Tally:
    """Tries that many mutants."""
    tally = Tally()
    for one, name, file, content in mutants(seeds, folder, count, seed):
        tally.add(one, name, tried(one, folder, file, content))
        told(tally)
    return tally
