"""Small hand-written records, shared by the tests of diagnosis, gate and reports."""

from __future__ import annotations

from typing import Any

from msgspec import structs

from prelu_doctor.diagnosis.findings import findings
from prelu_doctor.diagnosis.totals import totals
from prelu_doctor.diagnosis.verdict import verdict
from prelu_doctor.diagnosis.weight_findings import weight_findings
from prelu_doctor.gate.judgement import judge, undecided
from prelu_doctor.gate.summary import summarise
from prelu_doctor.records import (
    CheckReport,
    ClosedChannels,
    ConvertReport,
    Data,
    DeclinedUnits,
    Evaluation,
    FineTune,
    Fit,
    Model,
    NonFiniteTensor,
    ParityCheck,
    ParityReport,
    Preservation,
    ScanReport,
    Site,
    SiteChange,
    Slopes,
    StoredSlopes,
    Tool,
    Unresolved,
    WeightsExamination,
    ZeroSlices,
)

TOOL = Tool(version="1.2.3")
SAMPLES = 512


def bound(samples: int) -> float:
    return 1 - 0.05 ** (1 / samples) if samples else 1.0


def a_model(**changes: Any) -> Model:
    given: dict[str, Any] = {"path": "dying_cnn.pt", "sha256": "ab12cd34" * 8, "kind": "torch-module"}
    return Model(**given | {"parameters": 12345} | changes)


def some_data(**changes: Any) -> Data:
    given: dict[str, Any] = {"source": "digits.safetensors", "synthetic": False, "samples": SAMPLES, "seed": 0}
    return Data(**given | changes)


def a_site(id: str = "features.relu", *, units: int = 8, dead: int = 0, **changes: Any) -> Site:
    samples = changes.get("samples", SAMPLES)
    rates = [0.0] * dead + [0.5] * (units - dead)
    given: dict[str, Any] = {
        "id": id,
        "function": "relu",
        "source": "dying_cnn.py:31",
        "unit_axis": 1,
        "axis_assumed": False,
        "input_independent": False,
        "samples": samples,
        "units": units,
        "dead": dead,
        "dead_units": list(range(dead)),
        "rare": 0,
        "always_on": 0,
        "dormant": dead,
        "firing_rate": rates,
        "positive_rate": [rate / 2 for rate in rates],
        "firing_rate_bound": 0.0 if changes.get("input_independent") else bound(samples),
        "producers": ["features.conv", "features.bn"],
        "consumers": ["classifier"],
    }
    return Site(**given | changes)


def a_report(
    sites: list[Site] | None = None,
    *,
    model: Model | None = None,
    data: Data | None = None,
    unresolved: list[Unresolved] | None = None,
) -> ScanReport:
    sites = [a_site()] if sites is None else sites
    model, data, unresolved = model or a_model(), data or some_data(), unresolved or []
    found = findings(model, data, sites, unresolved)
    return ScanReport(
        tool=TOOL,
        model=model,
        data=data,
        sites=sites,
        unresolved=unresolved,
        totals=totals(sites),
        findings=found,
        verdict=verdict(found, data),
    )


def a_dying_cnn(**changes: Any) -> ScanReport:
    sites = [
        a_site("features.0.relu", units=16, dead=3, rare=1, dormant=4, source="dying_cnn.py:22"),
        a_site("features.1.relu#1", units=32, dead=0, rare=2, producers=["features.1.conv1", "features.1.bn1"]),
        a_site("features.1.relu#2", units=32, dead=32, producers=["features.1.conv2", "features.1.bn2"]),
        a_site("classifier:relu#1", units=64, dead=1, dead_units=[40], always_on=3, source="dying_cnn.py:40"),
        a_site("gate", units=4, always_on=4, producers=[], axis_assumed=True),
        a_site("position.mlp.1", units=128, dead=2, input_independent=True, source="swin.py:88", samples=1),
    ]
    unresolved = [Unresolved(id="aux_head.relu", reason="this module was never called by the forward")]
    return a_report(sites, unresolved=unresolved, **changes)


def a_weights_examination(**changes: Any) -> WeightsExamination:
    given: dict[str, Any] = {"tensors": 30, "floating": 26, "layers": 9, "norms": 6, "slopes": [], "non_finite": []}
    return WeightsExamination(**given | {"zero_slices": [], "closed_channels": []} | changes)


def zero_slices(tensor: str = "fc.weight", *, of: int = 8, zero: int = 1, **changes: Any) -> ZeroSlices:
    given: dict[str, Any] = {"tensor": tensor, "shape": [of, 3], "slices": "outputs", "axis": 0, "of": of, "zero": zero}
    return ZeroSlices(**given | {"indices": list(range(zero)) if zero < of else []} | changes)


def closed_channels(tensor: str = "bn.weight", *, proved: int = 0, probable: int = 0, **changes: Any) -> ClosedChannels:
    given: dict[str, Any] = {"tensor": tensor, "shift": tensor.replace("weight", "bias"), "of": 16}
    given |= {"running_statistics": True, "proved": proved, "proved_indices": list(range(proved))}
    return ClosedChannels(**given | {"probable": probable, "probable_indices": list(range(9, 9 + probable))} | changes)


def stored_slopes(tensor: str = "act.weight", **changes: Any) -> StoredSlopes:
    given: dict[str, Any] = {"tensor": tensor, "of": 2, "surety": "undetermined", "min": -0.5, "mean": -0.125}
    return StoredSlopes(**given | {"max": 0.25, "flat": 0, "values": [-0.5, 0.25]} | changes)


def a_weights_report(
    weights: WeightsExamination | None = None, *, unresolved: list[Unresolved] | None = None, **model: Any
) -> ScanReport:
    weights, unresolved = weights or a_weights_examination(), unresolved or []
    broken = [held.tensor for held in weights.non_finite if not held.mask]
    data = Data(source="weights-only", synthetic=False, samples=0, seed=0)
    found = weight_findings(weights, unresolved)
    return ScanReport(
        tool=TOOL,
        model=a_model(**{"path": "weights.pt", "kind": "state-dict", "non_finite": broken} | model),
        data=data,
        sites=[],
        unresolved=unresolved,
        totals=totals([]),
        findings=found,
        verdict=verdict(found, data),
        basis="weights-only",
        weights=weights,
    )


def sick_weights(**model: Any) -> ScanReport:
    """One of everything that weights alone tell."""
    transposed = "a transposed convolution, whose outputs lie on the other axis, looks the same"
    weights = a_weights_examination(
        slopes=[
            stored_slopes("features.1.act.weight", of=64, flat=3),
            stored_slopes("prelu.weight", of=1, surety="one element", min=0.25, mean=0.25, max=0.25, values=[0.25]),
        ],
        non_finite=[
            NonFiniteTensor(tensor="encoder.layers.11.attention.output.weight", elements=589824, nan=3, infinite=1),
            NonFiniteTensor(tensor="decoder.mask", elements=100, nan=0, infinite=45, mask=True),
        ],
        zero_slices=[
            zero_slices("features.1.conv.weight", of=64, zero=9, shape=[64, 32, 3, 3], dead=9, doubt=transposed),
            zero_slices("classifier.fc.weight", of=1000, zero=2, indices=[3, 999], dead=1),
            zero_slices("features.2.conv.weight", slices="inputs", axis=1, of=64, zero=4, doubt=transposed),
        ],
        closed_channels=[closed_channels("features.0.bn.weight", proved=2, probable=1)],
    )
    left_out = [Unresolved(id="head.packed", reason="it is no plain array: torch.sparse_coo")]
    return a_weights_report(weights, unresolved=left_out, **model)


def a_converted_cnn(**changes: Any) -> ConvertReport:
    before = a_dying_cnn()
    slopes = Slopes(shape="channel", min=-0.004, mean=0.031, max=0.25, values=[0.25, -0.004])
    healed = [
        structs.replace(site, dead=0, dead_units=[], dormant=0, function="prelu", alpha=slopes) for site in before.sites
    ]
    # A functional call has a module of its own now.
    healed[3] = structs.replace(healed[3], id="classifier.prelu_1")
    healed[2] = before.sites[2]
    changed = [
        SiteChange(site=site.id, module=after.id, revived=site.dead_units)
        for site, after in zip(before.sites, healed, strict=True)
    ]
    changed[2] = SiteChange(site="features.1.relu#2", module="", declined="the owner cannot be traced: blocks.py:17")
    no_known_consumer = DeclinedUnits(units=[1, 2], reason="the unit reaches a residual sum")
    changed[0] = SiteChange(
        site="features.0.relu", module="features.0.relu", revived=[0], declined_units=[no_known_consumer]
    )
    given: dict[str, Any] = {
        "tool": TOOL,
        "before": before,
        "after": a_report(healed),
        "changes": changed,
        "preservation": Preservation(promised=True, samples=360, equal=False, max_change=3e-7, scale=12.1),
        "fine_tune": FineTune(
            objective="cross-entropy",
            steps=200,
            epochs=8.9,
            best_step=150,
            original=Evaluation(loss=0.1612, accuracy=0.958),
            start=Evaluation(loss=0.1612, accuracy=0.958),
            best=Evaluation(loss=0.0981, accuracy=0.972),
        ),
        "parity": a_parity_report(),
        "files": ["healed.safetensors", "healed.onnx"],
    }
    return ConvertReport(**given | changes)


def a_fitted_cnn() -> ConvertReport:
    """Two of its sites were smooth, so that their slopes were fitted."""
    report = a_converted_cnn()
    smooth = [structs.replace(site, function="gelu") for site in report.before.sites]
    slopes = Slopes(shape="channel", min=0.01, mean=0.17, max=0.44, values=[0.01, 0.44])
    changed = list(report.changes)
    for index, residual in ((0, 0.0397), (3, 0.0054)):
        changed[index] = structs.replace(changed[index], fit=Fit(slopes=slopes, residual=residual, unseen=[1]))
    moved = Preservation(promised=False, samples=360, equal=False, max_change=2.7, scale=27.8, rms_change=0.1025)
    return structs.replace(
        report,
        before=structs.replace(report.before, sites=smooth),
        changes=changed,
        preservation=moved,
        before_fitting=Preservation(promised=True, samples=360, equal=True, max_change=0.0, scale=27.8),
    )


def a_parity_report(**changes: Any) -> ParityReport:
    checks = [a_parity_check(batch_size=size, source=source) for size in (1, 7) for source in ("data", "synthetic")]
    given: dict[str, Any] = {"tool": TOOL, "model": a_model(), "onnx_path": "healed.onnx", "onnx_sha256": "ef" * 32}
    given |= {"opset": 20, "tolerance": 1e-5, "checks": checks, "verdict": "healthy"}
    return ParityReport(**given | changes)


def a_parity_check(**changes: Any) -> ParityCheck:
    given: dict[str, Any] = {"output": "logits", "batch_size": 1, "source": "data", "max_error": 3.1e-6, "scale": 12.1}
    given |= {"scaled_error": 2.6e-7, "non_finite_equal": True, "passed": True}
    return ParityCheck(**given | changes)


def a_check_report() -> CheckReport:
    healthy = structs.replace(a_report(), model=a_model(path="models/healthy.pt"))
    dying = structs.replace(a_dying_cnn(), model=a_model(path="models/dying.pt", non_finite=["fc.weight"]))
    noise = structs.replace(a_report(data=some_data(source="noise", synthetic=True)), model=a_model(path="noise.pt"))
    unreadable = undecided("models/broken.pt", "broken.pt is not a checkpoint\nexpected: a file of torch.save")
    return summarise([judge(healthy), judge(dying), judge(noise), unreadable], tool=TOOL)
