"""The zoo of odd little models, each carrying the answer a scan of it must give."""

from .axes import ChannelsLastConv, FlattenedTokens, LastAxisTransformerFeedForward, SequenceFirst
from .forms import (
    ClampMinZero,
    InplaceFunctional,
    InplaceReluOnInput,
    LeakyNet,
    PReluNet,
    Relu6Net,
    ThresholdForm,
)
from .odd import Odd
from .planted import PlantedModel
from .sharing import (
    HelperCalledTwice,
    ReluInHelperFunction,
    SharedReluTwoParents,
    SharedReluTwoWidths,
    SiameseEncoder,
    TiedLinear,
    TimeLoop,
)
from .surroundings import (
    DictOutput,
    DropoutFunctional,
    InputIndependentBias,
    TrainingBranch,
    TwoInputs,
    UnusedRelu,
)
from .wiring import (
    DenseConcat,
    DepthwiseNet,
    GroupedConv,
    NormBehindRelu,
    ReluOnOutput,
    ResidualBlock,
    SqueezeExcite,
)

ALL: list[type[Odd]] = [
    PlantedModel,
    SharedReluTwoWidths,
    HelperCalledTwice,
    ReluInHelperFunction,
    SiameseEncoder,
    TimeLoop,
    SharedReluTwoParents,
    TiedLinear,
    InplaceReluOnInput,
    InplaceFunctional,
    ClampMinZero,
    ThresholdForm,
    Relu6Net,
    LeakyNet,
    PReluNet,
    LastAxisTransformerFeedForward,
    FlattenedTokens,
    SequenceFirst,
    ChannelsLastConv,
    DenseConcat,
    GroupedConv,
    DepthwiseNet,
    SqueezeExcite,
    ResidualBlock,
    NormBehindRelu,
    ReluOnOutput,
    UnusedRelu,
    InputIndependentBias,
    TwoInputs,
    DictOutput,
    TrainingBranch,
    DropoutFunctional,
]
