"""Weights whose architecture is not there, and the report of what they tell all the same. It imports no exporter."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from prelu_doctor import __version__, records
from prelu_doctor.diagnosis.totals import totals
from prelu_doctor.diagnosis.verdict import verdict
from prelu_doctor.diagnosis.weight_findings import weight_findings
from prelu_doctor.errors import UsageError
from prelu_doctor.escaping import escaped
from prelu_doctor.weights.examination import examine

ARCH_OPTIONS = "--arch module:callable, --arch path/to/file.py:callable, or --arch with a file that holds the module"


@dataclass(frozen=True)
class BareWeights:
    """What a file holds, where it holds weights alone and nobody named their architecture.

    Attributes:
        path: As the user named it.
        sha256: Of the file's bytes.
        kind: What it was recognised as.
        state: The weights by name.
        known_slopes: Paths of modules that are PReLUs, by the recipe of a converted file.
        note: What was done to open it; may be empty.
    """

    path: str
    sha256: str
    kind: str
    state: Mapping[str, Tensor]
    known_slopes: Collection[str] = ()
    note: str = ""

    def needs_architecture(self) -> UsageError:
        """For whoever wants to run it."""
        return UsageError(
            f"{escaped(self.path)} holds weights alone ({self.kind}, {len(self.state)} tensors)",
            "the architecture that they belong to",
            ARCH_OPTIONS,
        )

    def check_nothing_to_run(self, options: Sequence[str]) -> None:
        """Refuses options that only a forward could heed.

        Args:
            options: Those that were given.

        Raises:
            UsageError: There are some.
        """
        if options:
            raise UsageError(
                f"{escaped(self.path)} holds weights alone, which nothing can be run through: {', '.join(options)}",
                "--arch with these options, or none of them for what weights alone tell",
                ARCH_OPTIONS,
            )


def weights_report(weights: BareWeights) -> records.ScanReport:
    """What weights tell without their architecture: a scan report without sites, its basis `weights-only`."""
    examined = examine(weights.state, weights.known_slopes)
    found = examined.found
    data = records.Data(source="weights-only", synthetic=False, samples=0, seed=0)
    notes = weight_findings(found, examined.left_out)
    return records.ScanReport(
        tool=records.Tool(version=__version__),
        model=records.Model(
            path=weights.path,
            sha256=weights.sha256,
            kind=weights.kind,
            parameters=examined.parameters,
            non_finite=[held.tensor for held in found.non_finite if not held.mask],
        ),
        data=data,
        sites=[],
        unresolved=examined.left_out,
        totals=totals([]),
        findings=notes,
        verdict=verdict(notes, data),
        basis="weights-only",
        weights=found,
    )
