"""The rules: every code a finding can carry, with its explanation (`prelu-doctor explain CODE`)."""

from __future__ import annotations

from dataclasses import dataclass

from prelu_doctor.errors import UsageError
from prelu_doctor.records import Severity


@dataclass(frozen=True)
class Rule:
    """What a code means; codes are stable, people script against them.

    Attributes:
        code: As `PD101`.
        title: The finding in a few words.
        severity: What a finding of this code weighs unless its evidence says otherwise.
        meaning: What was seen, and why it matters.
        remedy: What to do about it.
    """

    code: str
    title: str
    severity: Severity
    meaning: str
    remedy: str


def rule(code: str) -> Rule:
    """The rule of a code, in whatever case it was typed.

    Raises:
        UsageError: No rule has this code.
    """
    found = RULES.get(code.strip().upper())
    if found is None:
        raise UsageError(
            f"no finding has the code {code!r}", f"one of {', '.join(RULES)}", "prelu-doctor explain PD101"
        )
    return found


def explain(code: str) -> str:
    """The rule as plain text: title, meaning, what to do.

    Raises:
        UsageError: No rule has this code.
    """
    found = rule(code)
    return f"{found.code}  {found.title}  ({found.severity})\n\n{found.meaning}\n\nWhat to do\n{found.remedy}\n"


_RULES = (
    Rule(
        "PD101",
        "dead units",
        "warning",
        "Some units of this site fired on no sample that was scanned. Behind a ReLU a unit that never fires has a "
        "zero gradient on every sample, so no training step on such data can bring it back: the network carries "
        "its weights, pays for its arithmetic and gets a constant: 0, or the ceiling of a "
        "ReLU6. Usual causes are a learning rate that was "
        "once too high, a large negative bias or normalisation shift, and an initialisation too small for the "
        "depth. For a PReLU or LeakyReLU a unit counts as dead only if its slope is also below 1e-3.\n\n"
        "Silence on n samples is no proof of death. It bounds the firing rate: at most 1 - 0.05^(1/n) at 95 % "
        "confidence, about 3/n. A site that the model's input does not reach is the exception: there it is "
        "certain.",
        "`prelu-doctor convert` turns the site into a PReLU and re-initialises dead units without moving the "
        "output. If the share is small and the model is good enough, leaving them, or pruning them, is a fair "
        "choice too. When training anew: lower the peak learning rate, warm up, and use He initialisation.",
    ),
    Rule(
        "PD102",
        "a whole site is dead",
        "error",
        "No unit of this site fired on any sample, so nothing passes it. In a plain chain everything behind it "
        "sees a constant: the model's output does not depend on its input. On a residual branch the block has "
        "become the identity: the model still works, and the branch is dead weight.",
        "First make sure that the samples are prepared as they were in training: scale, mean, channel order. "
        "Inputs in 0..255 or all zeros can silence a healthy site. If they are right, look at the producers' "
        "weights and normalisation statistics. `prelu-doctor convert` revives what it can isolate; a chain that "
        "is dead from end to end has to be trained anew.",
    ),
    Rule(
        "PD103",
        "rare units",
        "note",
        "Some units fired, but on fewer than 1 % of the samples (or the share that was asked for). They may be "
        "detectors of something rare, which is fine, or units about to die.",
        "Compare with an earlier checkpoint: if the number grows during training, lower the learning rate. Do not "
        "re-initialise them: they may carry the rare classes.",
    ),
    Rule(
        "PD104",
        "the activation does nothing",
        "note",
        "Every unit of this site was positive at every position of every sample. A rectifier whose input is "
        "always positive is the identity: the layers on both sides form one linear map on this data.",
        "Often harmless, for instance behind a sigmoid, another ReLU, or a pooling of rectified maps. If it was "
        "meant as a nonlinearity, look for a large positive bias or inputs that were not centred.",
    ),
    Rule(
        "PD105",
        "dormant units",
        "note",
        "Beyond the dead ones, some units have a Sokar score E|h_i| / mean_k E|h_k| of at most tau (0.025 unless "
        "asked otherwise): they fire, but so weakly that the next layer hardly notices. The score compares units "
        "of one site, so it is blind to a site that shrank as a whole.",
        "Watch it over training. In reinforcement learning and continual learning a growing share goes with a "
        "network that stops learning (Sokar et al. 2023).",
    ),
    Rule(
        "PD106",
        "never-positive units",
        "note",
        "Some units of this PReLU or LeakyReLU site were negative on every sample. They are not dead: the slope "
        "lets signal and gradient through. They act as linear units with the slope as gain. A GELU, SiLU or Hardswish, "
        "which is looked at where `convert --activations` names it, lets them through too, bent.",
        "Nothing needs to be done. If nearly all units of a site are never positive, the site adds no nonlinearity.",
    ),
    Rule(
        "PD107",
        "silent outputs",
        "note",
        "The activation of this site is the model's last operation, and some of its outputs were positive on no "
        "sample. An output may be 0 for good reason, as where a class does not occur in the sample, so it is never "
        "called dead.",
        "Nothing, if the sample explains it. If such an output should have been positive, look at its training data: "
        "behind a ReLU it gets no gradient while it is 0.",
    ),
    Rule(
        "PD201",
        "weights that are not finite",
        "error",
        "Parameters or buffers of the checkpoint hold a NaN or an infinity. One such value spreads to every "
        "output that reads it, and makes every count of this report unreliable. This needs no data to be known.",
        "Go back to an earlier checkpoint. Look at the loss curve for the step where it happened; gradient "
        "clipping, a lower learning rate or bfloat16 instead of float16 prevent it.",
    ),
    Rule(
        "PD202",
        "activations that are not finite",
        "error",
        "A NaN or -inf reached an activation. A NaN counts as not firing, so it can make a healthy unit look "
        "dead. -inf is harmless behind a ReLU, which makes it 0, but a PReLU with slope 0 makes it NaN: `convert` "
        "declines such a site.",
        "Look at the data first (missing values, a division by a zero standard deviation), then at masked sums "
        "and at half-precision overflow in the model.",
    ),
    Rule(
        "PD301",
        "synthetic input",
        "note",
        "No sample data was given, so the model was fed seeded Gaussian noise. Which units fire depends on the "
        "input: on noise a healthy unit may be silent and a dead one may fire. The findings are advice; they fail "
        "no gate, and `convert` revives and trains nothing. Weights that are not finite are judged all the same.",
        "Give real samples, prepared as in training: `--data samples.npz` (array `x`, labels `y` if there are "
        "any), a `.safetensors` or `.npy` file, a folder of images, or `module:callable`. A few hundred are "
        "enough.",
    ),
    Rule(
        "PD302",
        "too few samples",
        "note",
        "So few samples were scanned that a unit which never fired may still fire on more than 5 % of all "
        "samples. A dead count from few samples is too high: units silent on 1 image wake up over the next 50. "
        "This is a warning where units were counted as dead, else a note.",
        "Scan 59 samples or more for a bound of 5 %, 299 for the bound of 1 % that `convert` asks for before it "
        "revives a unit.",
    ),
    Rule(
        "PD303",
        "nothing to examine",
        "warning",
        "The scan saw no activation this program knows (ReLU, ReLU6, PReLU, LeakyReLU), or had no sample to run. "
        "That is no clean bill of health: the verdict is `undecided`.",
        "A model of GELU, SiLU or tanh has no units that can die in this sense; `convert --activations` turns GELU, "
        "SiLU and Hardswish into PReLUs all the same. If you know that it has ReLUs, see the unresolved list, and make "
        "sure that the data is not empty.",
    ),
    Rule(
        "PD401",
        "not everything was examined",
        "note",
        "Some activation calls could not be placed in the model, or some activation modules were never reached by "
        "this forward. The report says nothing about their units.",
        "A module that is never reached may be a training-only head, or code behind a condition that these inputs "
        "do not meet: give inputs that do.",
    ),
    Rule(
        "PD402",
        "the unit axis is assumed",
        "note",
        "No layer with parameters was found that writes this site's units, so no layer told which axis they lie "
        "on. The axis in the report is an assumption, and so are the site's counts.",
        "Compare `unit_axis` and `units` in the JSON report with what the layer should have.",
    ),
    Rule(
        "PD403",
        "rows were counted, not samples",
        "note",
        "Axis 0 of this site's tensor could not be folded back to samples (flattened tokens or windows), so each "
        "row was counted as one. Rows of one sample resemble each other: the firing-rate bound is then too small.",
        "Read the site's counts as shares of rows, and scan more samples than the bound asks for.",
    ),
    Rule(
        "PD501",
        "weights alone were looked at",
        "note",
        "The file holds weights alone and no `--arch` was given, so nothing was run. Weights tell values that are not "
        "finite, slices that are zero, norm channels that a ReLU behind them would close, and slopes. They do not tell "
        "which activation calls there are, what follows which layer, or what fires on real samples: the verdict is "
        "`undecided` unless a weight is not finite. What a tensor is for is read off its name and its shape; where "
        "these leave a doubt, the finding names it.",
        "Give the architecture with `--arch module:callable`, `--arch path/to/file.py:callable` or `--arch` with a "
        "file that holds the module, and samples with `--data`. The report then has every call, its dead units, "
        "the layers around it, and a confidence for each count.",
    ),
    Rule(
        "PD502",
        "a layer's outputs with all-zero weights",
        "warning",
        "Every weight that writes these outputs is 0, so each is a constant: its bias. With a bias of at most 0, or "
        "none, it is dead if a ReLU follows directly, whatever comes in; a normalisation in between adds its shift. "
        "Usual causes are pruning, weight decay on units that no longer get a gradient, and layers that start at zero "
        "on purpose (the last of a residual branch, LoRA). Of an embedding the padding row is zero on purpose: where "
        "it may be that, this is a note.",
        "Scan with `--arch` and `--data` to see whether a ReLU follows, and convert to bring such units back. Pruned "
        "filters can be cut out.",
    ),
    Rule(
        "PD503",
        "norm channels that are closed for sure",
        "warning",
        "The scale of these channels is 0 and their shift is at most 0: whatever comes in, what goes out is the "
        "shift. A ReLU that follows directly gives 0 for every finite input, without a gradient for the layers before. "
        "A norm whose scales and shifts are all 0 may be one that starts a residual branch at zero on purpose; what "
        "follows is then a sum and no ReLU.",
        "Scan with `--arch` and `--data` to see what follows. `prelu-doctor convert` gives such channels scale 1, "
        "shift 0 and weights of their own again.",
    ),
    Rule(
        "PD504",
        "norm channels that are probably closed",
        "note",
        "The shift of these channels lies 3 scales or more below 0. A normalised input has mean 0 and variance 1 over "
        "the batch (or over its group), so that few values, if any, come out positive, and a ReLU that follows "
        "directly is silent on nearly all samples. It is no proof: the input may have a long tail, a batch norm in "
        "eval mode uses running statistics that need not fit the data, and what looks like a norm may be a "
        "bare scaling.",
        "Scan with `--arch` and `--data`: that counts how often each unit fires and says how sure it is.",
    ),
    Rule(
        "PD505",
        "slopes of PReLUs",
        "note",
        "These tensors are, or may be, the slopes of a PReLU. The recipe of a converted file or the module's name "
        "says so, or a single value does; a lone tensor of one axis may as well be the scales of a norm without shift "
        "(RMSNorm, LayerNorm without bias). A slope below 1e-3 in magnitude makes the PReLU a ReLU, so that its unit "
        "can die; a slope of 1 makes it do nothing.",
        "Nothing needs to be done. Slopes that are negative or far above 1 are worth a look at the learning rate and "
        "weight decay they were trained with.",
    ),
    Rule(
        "PD506",
        "inputs that a layer does not read",
        "note",
        "Every weight that reads these inputs is 0, so that what comes in there goes nowhere in this layer. `convert` "
        "makes such columns on purpose behind units that it revived, pruning leaves them, and training may fill them "
        "again. Without a bias a transposed convolution cannot be told from a convolution: its inputs are outputs "
        "then.",
        "Nothing, if the file was converted or pruned. Else the units that feed these inputs can be cut out, unless "
        "another layer reads them.",
    ),
    Rule(
        "PD507",
        "tensors that look like masks",
        "note",
        "These tensors hold nothing but zeros and infinities of one sign, as an attention mask does on purpose, and "
        "their names are not those of weights, biases or statistics. They are not counted as weights that are not "
        "finite.",
        "Nothing, if they are masks. If one is a parameter, it has overflowed: take an earlier checkpoint.",
    ),
    Rule(
        "PD508",
        "tensors that were not looked at",
        "note",
        "The values of these tensors were not examined: they hold no data (meta), are sparse or quantised, lie in the "
        "memory of fewer elements than they claim, or have a type that torch cannot compute with. The report says "
        "nothing about them.",
        "The reason stands with each tensor in the report. Save plain, dense tensors to have them looked at.",
    ),
)

RULES: dict[str, Rule] = {entry.code: entry for entry in _RULES}
