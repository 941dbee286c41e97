"""The frozen records that cross folder borders; the JSON reports are their image.

Axis letters: N samples, C units, P positions. Shares lie in 0..1. No record holds a tensor.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec

SCHEMA_VERSION: Final = 1

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Count = Annotated[int, msgspec.Meta(ge=0)]

Function = Literal["relu", "relu6", "clamp", "prelu", "leaky_relu", "rrelu", "gelu", "silu", "hardswish"]
"""`clamp`: a ReLU with a ceiling other than 6. `rrelu`: in eval mode a LeakyReLU with the mean of its slopes."""
SMOOTH: Final[frozenset[Function]] = frozenset({"gelu", "silu", "hardswish"})
"""Functions that no PReLU equals. They are sites only where they were asked for."""
Verdict = Literal["healthy", "findings", "undecided"]
Severity = Literal["error", "warning", "note"]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Root of all records: immutable, built by keyword."""


R = TypeVar("R", bound=Record)


def replace(record: R, **changes: Any) -> R:
    """A copy of a record with some fields changed."""
    return msgspec.structs.replace(record, **changes)


class Tool(Record, frozen=True, kw_only=True):
    """The program that wrote a report."""

    name: str = "prelu-doctor"
    version: str


class Model(Record, frozen=True, kw_only=True):
    """The checkpoint that was examined."""

    path: str
    """As the user named it."""
    sha256: str
    """Of the file's bytes; empty where the model did not come from a file."""
    kind: str
    """What the file was recognised as: torch-module, state-dict, safetensors, torchscript, pt2, converted, ..."""
    parameters: Count
    """Number of parameter elements."""
    arch: str | None = None
    """The architecture the user named, where the file holds weights alone."""
    arch_args: dict[str, Any] = {}
    """Its keyword arguments."""
    method: str | None = None
    """What runs instead of `forward`, or the program that was taken of several."""
    weights_key: str | None = None
    """Where in a training dictionary the weights were taken from, as the user said."""
    allow_classes: list[str] = []
    """Classes that the user allowed the file to use."""
    trust: bool = False
    """True where the user vouched for the file, so that it may have run code."""
    note: str = ""
    """What was done to open it, and what was left out; may be empty."""
    non_finite: list[str] = []
    """Names of parameters and buffers that hold a NaN or an infinity."""


class Data(Record, frozen=True, kw_only=True):
    """The sample data a report rests on."""

    source: str
    """The data spec as the user typed it, or what the data is."""
    contents: str = ""
    """Names, number and shapes of the inputs found there."""
    synthetic: bool
    """True where the inputs are seeded Gaussian noise: findings are advice."""
    samples: Count
    seed: int


class Slopes(Record, frozen=True, kw_only=True):
    """The slopes of a PReLU or LeakyReLU site."""

    shape: Literal["channel", "site", "tied", "constant"]
    """One a channel, one a site, one for the whole net, or a constant that is not learned."""
    min: float
    mean: float
    max: float
    values: list[float]
    """[C], or [1] where one slope serves the site."""


class Site(Record, frozen=True, kw_only=True):
    """One activation call of the model's forward, and what the sample showed of its units."""

    id: str
    """Module path, `#k` where the same caller calls it again; or `owner:function#k`."""
    function: Function
    source: str
    """File name and line of the call, as `resnet.py:102`."""
    calls: Count = 1
    """Dispatched calls in one forward that were merged into this site because they share their producers."""
    unit_axis: int
    """Axis of the site's activation tensor that holds the units."""
    axis_assumed: bool
    """True where no producer told the axis."""
    input_independent: bool
    """True where the model's input does not reach the site: its dead units are certain."""
    counted: Literal["samples", "rows"] = "samples"
    """`rows` where axis 0 could not be folded back to samples, so that each row was counted as one."""
    samples: Count
    """What n the counts below rest on (samples or rows)."""
    units: Count
    dead: Count
    dead_units: list[int]
    rare: Count
    """Units that fired on some, but on fewer than the rare share of the samples."""
    always_on: Count
    """Units positive at every position of every sample."""
    dormant: Count
    """Units whose Sokar score is at most tau."""
    never_positive: Count = 0
    """Silent units of a PReLU or LeakyReLU whose slope still lets a gradient through."""
    firing_rate: list[Share]
    """[C] share of samples fired on."""
    positive_rate: list[Share]
    """[C] share of positions at which the derivative is that of the positive side."""
    firing_rate_bound: Share
    """Clopper-Pearson upper bound at 95 % on the firing rate of a silent unit: 1 - 0.05^(1/n). 0 where certain."""
    producers: list[str]
    """Parameterised layers that write the units, in forward order."""
    consumers: list[str]
    """Parameterised layers that read them."""
    is_output: bool = False
    """True where the activation is the model's last operation: its units are outputs, which are never called dead."""
    silent_outputs: list[int] = []
    """Such units that were positive on no sample."""
    alpha: Slopes | None = None
    saw_negative_infinity: bool = False
    """True where a pre-activation was -inf: a slope of 0 would turn it into NaN."""
    saw_nan: bool = False


class Unresolved(Record, frozen=True, kw_only=True):
    """An activation call that could not be placed, or a module that was never reached."""

    id: str
    reason: str


class Totals(Record, frozen=True, kw_only=True):
    """Sums over all sites."""

    sites: Count
    units: Count
    dead: Count
    dead_fraction: Share
    """dead / units; 0 where there are no units."""
    firing_rate_bound: Share
    """The widest bound of any site: every silent unit fires on at most this share, at 95 % confidence each."""


class Finding(Record, frozen=True, kw_only=True):
    """One thing worth knowing, under a stable code (`prelu-doctor explain CODE`)."""

    code: str
    severity: Severity
    site: str | None = None
    message: str
    evidence: dict[str, Any] = {}


class NonFiniteTensor(Record, frozen=True, kw_only=True):
    """A tensor of a file that holds NaN or infinities."""

    tensor: str
    elements: Count
    nan: Count
    infinite: Count
    mask: bool = False
    """True where it holds nothing but zeros and infinities of one sign, as attention masks do on purpose."""


class ZeroSlices(Record, frozen=True, kw_only=True):
    """Slices of a layer's weight that hold nothing but 0."""

    tensor: str
    shape: list[int]
    slices: Literal["outputs", "inputs"]
    """`outputs`: what writes one output; `inputs`: what reads one input."""
    axis: Count
    """Axis of the weight along which they lie."""
    of: Count
    """How many slices there are."""
    zero: Count
    indices: list[int]
    """Of those that are zero; the first 10,000 of them. Empty where all are."""
    dead: Count = 0
    """Outputs that are dead if a ReLU follows directly: without a bias, or with one of at most 0."""
    doubt: str = ""
    """What else the tensor may be, so that the axis or the use is assumed; empty where names and shapes tell."""
    may_be_padding: bool = False
    """True where they may be the rows of an embedding that are zero on purpose."""


class ClosedChannels(Record, frozen=True, kw_only=True):
    """Channels of a normalisation that are dead if a ReLU follows directly."""

    tensor: str
    """Name of the scale."""
    shift: str
    """Name of the shift; empty where there is none."""
    of: Count
    """How many channels there are."""
    running_statistics: bool
    """True for a batch norm: what it gives in eval mode depends on how well its statistics fit the data."""
    proved: Count
    """Channels with scale 0 and shift <= 0: whatever comes in, no positive value comes out."""
    proved_indices: list[int]
    """The first 10,000 of them."""
    probable: Count
    """Further channels with shift + 3 |scale| <= 0: a positive value comes out only beyond 3 standard deviations."""
    probable_indices: list[int]
    """The first 10,000 of them."""


class StoredSlopes(Record, frozen=True, kw_only=True):
    """What are, or may be, the slopes of a PReLU."""

    tensor: str
    of: Count
    """How many values there are."""
    surety: Literal["recipe", "name", "one element", "undetermined"]
    """What says so: the recipe of a converted file, the module's name, a single value; or nothing: one axis and no bias
    are also what the scales of a norm without shift have."""
    min: float | None
    """Of those that are finite; None where none is."""
    mean: float | None
    max: float | None
    flat: Count
    """Slopes below 1e-3 in magnitude: such a PReLU is a ReLU."""
    values: list[float | None]
    """The first 10,000 of them; None for one that is not finite."""


class WeightsExamination(Record, frozen=True, kw_only=True):
    """What was looked at in a file of weights without their architecture, and what was found."""

    tensors: Count
    """Each counted once, however many names it has."""
    floating: Count
    """Those whose values were looked at; the others hold whole numbers or were left out."""
    layers: Count
    """Weights whose slices were looked at."""
    norms: Count
    slopes: list[StoredSlopes]
    non_finite: list[NonFiniteTensor]
    zero_slices: list[ZeroSlices]
    closed_channels: list[ClosedChannels]


class ScanReport(Record, frozen=True, kw_only=True):
    """What `scan` found: schema_version 1 of the JSON report."""

    schema_version: Literal[1] = SCHEMA_VERSION
    tool: Tool
    model: Model
    data: Data
    sites: list[Site]
    """In forward order."""
    unresolved: list[Unresolved]
    totals: Totals
    findings: list[Finding]
    verdict: Verdict
    basis: Literal["forward", "weights-only"] = "forward"
    """`weights-only`: a file of weights whose architecture was not given, so that nothing was run."""
    weights: WeightsExamination | None = None
    """What weights alone told; None where a forward was run."""


class Breach(Record, frozen=True, kw_only=True):
    """One limit of the gate that a model went over."""

    limit: Literal["max-dead", "max-dead-site", "non-finite", "no-evidence"]
    """`no-evidence`: synthetic data or nothing to count, so that the gate cannot tell."""
    site: str | None = None
    measured: float | None = None
    allowed: float | None = None
    message: str


class ModelVerdict(Record, frozen=True, kw_only=True):
    """The gate's judgement of one checkpoint."""

    path: str
    verdict: Verdict
    breaches: list[Breach]
    report: ScanReport | None
    """None where the checkpoint could not be scanned at all."""
    error: str | None = None
    """Why it could not be scanned."""


class CheckReport(Record, frozen=True, kw_only=True):
    """What `check` found."""

    schema_version: Literal[1] = SCHEMA_VERSION
    tool: Tool
    max_dead: Share
    max_dead_site: Share
    models: list[ModelVerdict]
    verdict: Verdict
    """findings where any model has them, else undecided where any is, else healthy."""


class ParityCheck(Record, frozen=True, kw_only=True):
    """One output compared on one batch."""

    output: str
    batch_size: Count
    source: Literal["data", "synthetic"]
    max_error: float
    """max |onnx - torch| over the finite elements."""
    scale: float
    """max |torch| over the finite elements."""
    scaled_error: float
    """max_error / scale; max_error itself where the scale is 0."""
    non_finite_equal: bool
    """NaN, +inf and -inf stand at the same places."""
    passed: bool
    detail: str = ""
    """What differs, where the outputs could not be compared (shape, dtype)."""


class ParityReport(Record, frozen=True, kw_only=True):
    """What `parity` found: is the ONNX file the same function as the eager model?"""

    schema_version: Literal[1] = SCHEMA_VERSION
    tool: Tool
    model: Model
    onnx_path: str
    onnx_sha256: str
    opset: Count
    tolerance: float
    checks: list[ParityCheck]
    verdict: Literal["healthy", "findings"]
    fixed_batch: int | None = None
    """The only batch size that the file takes, as its inputs declare it, and the only one compared; None for any."""
    fixed_because: str = ""
    """Why the export could not leave the batch axis open; empty where it did, or where another made the file."""


class DeclinedUnits(Record, frozen=True, kw_only=True):
    """Dead units that were left alone, and why."""

    units: list[int]
    reason: str


class Fit(Record, frozen=True, kw_only=True):
    """The PReLU that comes closest to a smooth activation on the scanned data, by least squares."""

    slopes: Slopes
    """Before the fine-tune."""
    residual: float
    """Share of the activation's energy that is left: sum (f(x) - PReLU(x))^2 / sum f(x)^2 over all that was seen."""
    unseen: list[int] = []
    """Units of which no negative pre-activation was seen: their slope is 0."""


class SiteChange(Record, frozen=True, kw_only=True):
    """What the treatment did to one site."""

    site: str
    module: str
    """Path of the PReLU that stands there now; empty where the site was declined."""
    declined: str = ""
    """Why the site keeps its activation; empty where it was converted."""
    revived: list[int] = []
    declined_units: list[DeclinedUnits] = []
    fit: Fit | None = None
    """Where the site's activation was smooth, so that its slopes were fitted."""


class Preservation(Record, frozen=True, kw_only=True):
    """How far the output moved by the surgery alone, before any training."""

    promised: bool
    """False where the options asked for another recipe (a slope other than 0, `--reinit all`, a fitted slope)."""
    samples: Count
    equal: bool
    """All elements equal (`==`, so that -0.0 is 0.0; NaN at the same places)."""
    max_change: float
    """max |after - before|."""
    scale: float
    """max |before|."""
    rms_change: float = 0.0
    """sqrt(sum (after - before)^2 / sum before^2) of the output that moved most by this measure; 0 where all is 0."""


class Evaluation(Record, frozen=True, kw_only=True):
    """A model's quality on the held-out part."""

    loss: float
    accuracy: Share | None = None
    """Share of right labels; None without class labels."""


class FineTune(Record, frozen=True, kw_only=True):
    """What the fine-tune did."""

    objective: Literal["cross-entropy", "binary-cross-entropy", "mean-squared-error", "distillation"]
    steps: Count
    epochs: float
    best_step: Count
    """The step whose state was kept; 0 is the start."""
    original: Evaluation
    """The untouched model."""
    start: Evaluation
    """After surgery, before the first step."""
    best: Evaluation
    control: Evaluation | None = None
    """The untouched model after the same steps, its best state: did the surgery help, or just the training?"""


class Program(Record, frozen=True, kw_only=True):
    """A torch.export program that was written, read back, and gave the model's outputs."""

    path: str
    fixed_batch: int | None = None
    """The only batch size that it takes; None for any."""
    fixed_because: str = ""
    """Why the batch axis could not be left open; empty where it was."""


class ConvertReport(Record, frozen=True, kw_only=True):
    """What `convert` did."""

    schema_version: Literal[1] = SCHEMA_VERSION
    tool: Tool
    before: ScanReport
    after: ScanReport
    changes: list[SiteChange]
    preservation: Preservation
    before_fitting: Preservation | None = None
    """The same for everything but the fitted slopes: smooth activations still computed their own function."""
    fine_tune: FineTune | None
    """None where nothing was trained."""
    not_trained: str = ""
    """Why nothing was trained; empty where it was."""
    parity: ParityReport | None = None
    programs: list[Program] = []
    """The `.pt2` files among what was written."""
    files: list[str] = []
    """What was written."""
