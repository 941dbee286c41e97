"""Networks as people write them, without a library of models."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.zoo_models.model import ZooModel, gaussian, tokens


def plain_models() -> Iterator[ZooModel]:
    """Every model of this file."""
    yield ZooModel("plain/transformer_encoder", "transformer", _encoder, (gaussian(6, 16),))
    yield ZooModel("plain/transformer", "transformer", _transformer, (gaussian(6, 16), gaussian(5, 16)))
    yield ZooModel("plain/rnn_relu", "rnn", RecurrentReLU, (gaussian(6, 8),))
    yield ZooModel("plain/rnn_cell", "rnn", CellOverTime, (gaussian(6, 8),))
    yield ZooModel("plain/dcgan_generator", "gan", _generator, (gaussian(16, 1, 1),))
    yield ZooModel("plain/dcgan_discriminator", "gan", _discriminator, (gaussian(3, 32, 32),))
    yield ZooModel("plain/cyclegan_generator", "gan", CycleGenerator, (gaussian(3, 32, 32),))
    yield ZooModel("plain/unet", "unet", UNet, (gaussian(3, 32, 32),))
    yield ZooModel("plain/unet_3d", "unet", UNet3D, (gaussian(1, 8, 16, 16),))
    yield ZooModel("plain/audio_1d", "audio", AudioNet, (gaussian(1, 1024),))
    yield ZooModel("plain/tcn", "audio", TemporalConvNet, (gaussian(4, 64),))
    yield ZooModel("plain/conv_tasnet", "audio", Separator, (gaussian(1, 512),))
    yield ZooModel("plain/net_3d", "volume", _volume_net, (gaussian(1, 8, 16, 16),))
    yield ZooModel("plain/mlp", "mlp", _mlp, (gaussian(20),))
    yield ZooModel("plain/autoencoder", "mlp", AutoEncoder, (gaussian(1, 28, 28),))
    yield ZooModel("plain/vae", "mlp", VariationalAutoEncoder, (gaussian(32),))
    yield ZooModel("plain/dlrm", "recommender", Recommender, (gaussian(8), tokens(50, 3)))
    yield ZooModel("plain/deepfm", "recommender", FactorizationMachine, (tokens(50, 6),))
    yield ZooModel("plain/pointnet", "points", PointNet, (gaussian(3, 64),))
    yield ZooModel("plain/dueling_dqn", "control", DuelingQ, (gaussian(4, 84, 84),))
    yield ZooModel("plain/actor_critic", "control", ActorCritic, (gaussian(10),))
    yield ZooModel("plain/siamese", "siamese", Siamese, (gaussian(1, 28, 28), gaussian(1, 28, 28)))
    yield ZooModel("plain/nerf", "field", RadianceField, (gaussian(39), gaussian(27)))
    yield ZooModel("plain/text_cnn", "text", TextCNN, (tokens(100, 20),))
    yield ZooModel("plain/lstm_attention", "text", LSTMAttention, (tokens(100, 12),))
    yield ZooModel("plain/graph_conv", "graph", GraphConv, (gaussian(12, 8), gaussian(12, 12)))
    yield ZooModel("plain/edsr", "super-resolution", SuperResolution, (gaussian(3, 16, 16),))
    yield ZooModel("plain/mixture_of_experts", "mixture", Mixture, (gaussian(16),))


def _encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 2, dim_feedforward=32, batch_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, 2), nn.Linear(16, 4))


def _transformer() -> nn.Module:
    return nn.Transformer(16, 2, 2, 2, dim_feedforward=32, batch_first=True)


class RecurrentReLU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(8, 16, num_layers=2, nonlinearity="relu", batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


class CellOverTime(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inputs = nn.Linear(8, 16)
        self.state = nn.Linear(16, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(x.shape[0], 16)
        for step in x.unbind(1):
            state = torch.relu(self.inputs(step) + self.state(state))
        return self.head(state)


def _generator() -> nn.Module:
    return nn.Sequential(
        nn.ConvTranspose2d(16, 32, 4, 1, 0, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(inplace=True),
        nn.ConvTranspose2d(32, 16, 4, 2, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=True),
        nn.ConvTranspose2d(16, 3, 4, 2, 1, bias=False),
        nn.Tanh(),
    )


def _discriminator() -> nn.Module:
    return nn.Sequential(
        nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 16, 4, 2, 1)),
        nn.LeakyReLU(0.2),
        nn.utils.parametrizations.spectral_norm(nn.Conv2d(16, 32, 4, 2, 1)),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 64, 1),
    )


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(width, width, 3),
            nn.InstanceNorm2d(width),
            nn.ReLU(True),
            nn.ReflectionPad2d(1),
            nn.Conv2d(width, width, 3),
            nn.InstanceNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)


class CycleGenerator(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.ReflectionPad2d(3),
            nn.Conv2d(3, 16, 7),
            nn.InstanceNorm2d(16),
            nn.ReLU(True),
            nn.Conv2d(16, 32, 3, 2, 1),
            nn.InstanceNorm2d(32),
            nn.ReLU(True),
            _Residual(32),
            _Residual(32),
            nn.ConvTranspose2d(32, 16, 3, 2, 1, output_padding=1),
            nn.InstanceNorm2d(16),
            nn.ReLU(True),
            nn.ReflectionPad2d(3),
            nn.Conv2d(16, 3, 7),
            nn.Tanh(),
        )


class _DoubleConv(nn.Module):
    """Two convolutions with one shared ReLU."""

    def __init__(self, inputs: int, outputs: int, dimensions: int = 2) -> None:
        super().__init__()
        conv = nn.Conv2d if dimensions == 2 else nn.Conv3d
        norm = nn.BatchNorm2d if dimensions == 2 else nn.BatchNorm3d
        self.conv1, self.norm1 = conv(inputs, outputs, 3, padding=1), norm(outputs)
        self.conv2, self.norm2 = conv(outputs, outputs, 3, padding=1), norm(outputs)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x))))))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = _DoubleConv(3, 8), _DoubleConv(8, 16), _DoubleConv(16, 32)
        self.up2 = nn.ConvTranspose2d(32, 16, 2, 2)
        self.join2, self.join1 = _DoubleConv(32, 16), _DoubleConv(24, 8)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(F.max_pool2d(first, 2))
        bottom = self.bottom(F.max_pool2d(second, 2))
        second = self.join2(torch.cat([self.up2(bottom), second], 1))
        up = F.interpolate(second, scale_factor=2, mode="bilinear", align_corners=True)
        return self.head(self.join1(torch.cat([up, first], 1)))


class UNet3D(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.bottom = _DoubleConv(1, 8, 3), _DoubleConv(8, 16, 3)
        self.up = nn.ConvTranspose3d(16, 8, 2, 2)
        self.join = _DoubleConv(16, 8, 3)
        self.head = nn.Conv3d(8, 2, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        skip = self.down(x)
        bottom = self.bottom(F.max_pool3d(skip, 2))
        return {"mask": self.head(self.join(torch.cat([self.up(bottom), skip], 1))), "features": bottom}


class AudioNet(nn.Module):
    """Raw audio to classes (M5)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv1d(1, 16, 16, stride=4), nn.BatchNorm1d(16)
        self.conv2, self.bn2 = nn.Conv1d(16, 32, 3), nn.BatchNorm1d(32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool1d(F.relu(self.bn1(self.conv1(x))), 4)
        x = F.max_pool1d(F.relu(self.bn2(self.conv2(x))), 4)
        return F.log_softmax(self.head(F.avg_pool1d(x, x.shape[-1]).permute(0, 2, 1)), dim=2)


class _TemporalBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, dilation: int) -> None:
        super().__init__()
        weight_norm = nn.utils.parametrizations.weight_norm
        self.padding = 2 * dilation
        self.conv1 = weight_norm(nn.Conv1d(inputs, outputs, 3, padding=self.padding, dilation=dilation))
        self.conv2 = weight_norm(nn.Conv1d(outputs, outputs, 3, padding=self.padding, dilation=dilation))
        self.relu1, self.relu2, self.relu = nn.ReLU(), nn.ReLU(), nn.ReLU()
        self.match = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.conv1(x)[..., : -self.padding])
        y = self.relu2(self.conv2(y)[..., : -self.padding])
        return self.relu(y + (x if self.match is None else self.match(x)))


class TemporalConvNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(_TemporalBlock(4, 16, 1), _TemporalBlock(16, 16, 2), _TemporalBlock(16, 16, 4))
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x)[..., -1])


class Separator(nn.Module):
    """Two sources out of one, as Conv-TasNet does it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Conv1d(1, 32, 16, 8, bias=False)
        self.norm = nn.GroupNorm(1, 32)
        self.narrow, self.prelu = nn.Conv1d(32, 16, 1), nn.PReLU()
        self.mask = nn.Conv1d(16, 64, 1)
        self.decoder = nn.ConvTranspose1d(32, 1, 16, 8, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = F.relu(self.encoder(x))
        masks = F.relu(self.mask(self.prelu(self.narrow(self.norm(features))))).chunk(2, 1)
        return self.decoder(features * masks[0]), self.decoder(features * masks[1])


def _volume_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(1, 8, 3, padding=1),
        nn.BatchNorm3d(8),
        nn.ReLU(),
        nn.MaxPool3d(2),
        nn.Conv3d(8, 16, 3, padding=1),
        nn.ReLU6(),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


def _mlp() -> nn.Module:
    relu = nn.ReLU()
    return nn.Sequential(nn.Linear(20, 32), relu, nn.Dropout(), nn.Linear(32, 32), relu, nn.Linear(32, 5))


class AutoEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(784, 8)
        )
        self.decoder = nn.Sequential(
            nn.Linear(8, 784),
            nn.ReLU(),
            nn.Unflatten(1, (16, 7, 7)),
            nn.ConvTranspose2d(16, 8, 2, 2),
            nn.ReLU(),
            nn.ConvTranspose2d(8, 1, 2, 2),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        code = self.encoder(x)
        return self.decoder(code), code


class VariationalAutoEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.mean, self.log_variance = nn.Linear(32, 24), nn.Linear(24, 4), nn.Linear(24, 4)
        self.outer, self.head = nn.Linear(4, 24), nn.Linear(24, 32)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = F.relu(self.inner(x))
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        code = mean + torch.randn_like(mean) * (0.5 * log_variance).exp() if self.training else mean
        return torch.sigmoid(self.head(F.relu(self.outer(code)))), mean, log_variance


class Recommender(nn.Module):
    """Dense and categorical features, as DLRM joins them."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(50, 8) for _ in range(3))
        self.bottom = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU())
        self.top = nn.Sequential(nn.Linear(14, 16), nn.ReLU(), nn.Linear(16, 1), nn.Sigmoid())

    def forward(self, dense: Tensor, categories: Tensor) -> Tensor:
        bottom = self.bottom(dense)
        vectors = [bottom] + [table(categories[:, index]) for index, table in enumerate(self.tables)]
        stacked = torch.stack(vectors, 1)
        products = torch.bmm(stacked, stacked.transpose(1, 2))
        rows, columns = torch.tril_indices(4, 4, offset=-1)
        return self.top(torch.cat([bottom, products[:, rows, columns]], 1))


class FactorizationMachine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.linear = nn.Embedding(50, 8), nn.Embedding(50, 1)
        self.deep = nn.ModuleList([nn.Linear(48, 16), nn.Linear(16, 16)])
        self.head = nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        vectors = self.embedding(x)
        pairs = 0.5 * (vectors.sum(1) ** 2 - (vectors**2).sum(1)).sum(1, keepdim=True)
        deep = vectors.flatten(1)
        for layer in self.deep:
            deep = F.relu(layer(deep))
        return torch.sigmoid(self.linear(x).sum(1) + pairs + self.head(deep))


class PointNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv1d(i, o, 1) for i, o in ((3, 16), (16, 32)))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for width in (16, 32))
        self.transform = nn.Sequential(nn.Conv1d(3, 16, 1), nn.ReLU(), nn.AdaptiveMaxPool1d(1), nn.Flatten())
        self.matrix, self.head = nn.Linear(16, 9), nn.Linear(32, 4)

    def forward(self, points: Tensor) -> Tensor:
        matrix = self.matrix(self.transform(points)).view(-1, 3, 3) + torch.eye(3)
        x = torch.bmm(matrix, points)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.relu(norm(conv(x)))
        return self.head(torch.max(x, 2)[0])


class DuelingQ(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(4, 16, 8, 4), nn.ReLU(), nn.Conv2d(16, 16, 4, 2), nn.ReLU(), nn.Flatten()
        )
        self.value = nn.Sequential(nn.Linear(1296, 32), nn.ReLU(), nn.Linear(32, 1))
        self.advantage = nn.Sequential(nn.Linear(1296, 32), nn.ReLU(), nn.Linear(32, 6))

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)
        advantage = self.advantage(features)
        return self.value(features) + advantage - advantage.mean(1, keepdim=True)


class ActorCritic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shared, self.actor, self.critic = nn.Linear(10, 32), nn.Linear(32, 4), nn.Linear(32, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor | None]:
        hidden = self.shared(x).relu_()
        return {"policy": self.actor(hidden).softmax(-1), "value": self.critic(hidden), "state": None}


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(288, 16))
        self.head = nn.Linear(16, 1)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head(F.relu(torch.abs(self.encoder(left) - self.encoder(right)) - 0.5))


class RadianceField(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(39, 32), nn.Linear(32, 32), nn.Linear(71, 32), nn.Linear(32, 32)])
        self.density, self.feature = nn.Linear(32, 1), nn.Linear(32, 32)
        self.view, self.color = nn.Linear(59, 16), nn.Linear(16, 3)

    def forward(self, position: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
        x = position
        for index, layer in enumerate(self.layers):
            x = F.relu(layer(torch.cat([position, x], -1) if index == 2 else x))
        view = F.relu(self.view(torch.cat([self.feature(x), direction], -1)))
        return torch.sigmoid(self.color(view)), F.relu(self.density(x))


class TextCNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, 16)
        self.convs = nn.ModuleList(nn.Conv2d(1, 8, (k, 16)) for k in (3, 4, 5))
        self.head = nn.Linear(24, 2)

    def forward(self, x: Tensor) -> Tensor:
        embedded = self.embedding(x).unsqueeze(1)
        features = [F.relu(conv(embedded)).squeeze(3) for conv in self.convs]
        return self.head(torch.cat([F.max_pool1d(f, f.size(2)).squeeze(2) for f in features], 1))


class LSTMAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, 16)
        self.lstm = nn.LSTM(16, 16, bidirectional=True, batch_first=True)
        self.score, self.hidden, self.head = nn.Linear(32, 1), nn.Linear(32, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.lstm(self.embedding(x))
        weights = self.score(torch.tanh(states)).softmax(1)
        return self.head(F.relu(self.hidden((weights * states).sum(1))))


class GraphConv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight1, self.weight2 = nn.Parameter(torch.empty(8, 16)), nn.Parameter(torch.empty(16, 3))
        self.bias1 = nn.Parameter(torch.empty(16))

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        weights = adjacency.softmax(-1)
        hidden = F.relu(weights @ (nodes @ self.weight1) + self.bias1)
        return weights @ (hidden @ self.weight2)


class _SuperBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * self.conv2(self.act(self.conv1(x)))


class SuperResolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 16, 3, padding=1)
        self.body = nn.Sequential(*[_SuperBlock(16) for _ in range(3)])
        self.tail = nn.Sequential(nn.Conv2d(16, 64, 3, padding=1), nn.PixelShuffle(2), nn.ReLU(), nn.Conv2d(16, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        return self.tail(self.body(x) + x)


class Mixture(nn.Module):
    """Every expert on every sample, weighed by a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(16, 4)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16)) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        weights = F.softmax(self.gate(x), -1)
        return torch.einsum("ne,nec->nc", weights, torch.stack([expert(x) for expert in self.experts], 1))
