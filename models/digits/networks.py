"""The demo networks, small enough to read: convolutional, a vision transformer, recurrent."""

import torch
from torch import Tensor, nn


class Cnn(nn.Module):
    """Residual and depthwise-separable convolutions with batch normalization.

    Takes float32 [B, 1, 8, 8] images and returns float32 [B, 10] logits.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.stem_bn = nn.BatchNorm2d(width)
        self.stem_relu = nn.ReLU()
        self.res1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.res1_bn = nn.BatchNorm2d(width)
        self.res1_relu = nn.ReLU()
        self.res2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.res2_bn = nn.BatchNorm2d(width)
        self.res2_relu = nn.ReLU()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.depthwise_bn = nn.BatchNorm2d(width)
        self.depthwise_act = nn.Hardswish()
        self.pointwise = nn.Conv2d(width, 2 * width, 1, bias=False)
        self.pointwise_bn = nn.BatchNorm2d(2 * width)
        self.pointwise_act = nn.Hardswish()
        self.maxpool = nn.MaxPool2d(2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch of images."""
        x = self.stem_relu(self.stem_bn(self.stem(x)))
        branch = self.res1_relu(self.res1_bn(self.res1(x)))
        x = self.res2_relu(self.res2_bn(self.res2(branch)) + x)
        x = self.maxpool(x)
        x = self.depthwise_act(self.depthwise_bn(self.depthwise(x)))
        x = self.pointwise_act(self.pointwise_bn(self.pointwise(x)))
        return self.head(self.avgpool(x).flatten(1))


class Attention(nn.Module):
    """Multi-head self-attention over [B, T, dim] tokens, softmax written out."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (dim // heads) ** -0.5
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return the attended tokens, same shape as ``x``."""
        batch, tokens, dim = x.shape
        split = (batch, tokens, self.heads, dim // self.heads)
        query = self.query(x).reshape(split).transpose(1, 2)
        key = self.key(x).reshape(split).permute(0, 2, 3, 1)
        value = self.value(x).reshape(split).transpose(1, 2)
        probabilities = torch.softmax(query @ key * self.scale, dim=-1)
        return self.out((probabilities @ value).transpose(1, 2).reshape(batch, tokens, dim))


class Block(nn.Module):
    """Pre-norm transformer block: attention and a two-layer GELU perceptron, each residual."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, hidden)
        self.gelu = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return the updated residual stream, same shape as ``x``."""
        x = x + self.attention(self.norm1(x))
        return x + self.fc2(self.gelu(self.fc1(self.norm2(x))))


class Vit(nn.Module):
    """Vision transformer with 2x2 patches, a class token and learned positions.

    Takes float32 [B, 1, 8, 8] images and returns float32 [B, 10] logits.
    """

    def __init__(self, dim: int = 48, depth: int = 4, heads: int = 3) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, dim, kernel_size=2, stride=2)
        self.class_token = nn.Parameter(0.02 * torch.randn(1, 1, dim))
        self.position = nn.Parameter(0.02 * torch.randn(1, 17, dim))
        self.blocks = nn.ModuleList(Block(dim, heads, 2 * dim) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch of images."""
        patches = self.patch(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(x.shape[0], -1, -1), patches], dim=1)
        tokens = tokens + self.position
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(self.norm(tokens)[:, 0])


class Recurrent(nn.Module):
    """One recurrent layer that reads an image row by row, and a classifier of its last state.

    Takes float32 [B, 1, 8, 8] images and returns float32 [B, 10] logits.
    """

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU], width: int = 48) -> None:
        super().__init__()
        self.rows = kind(8, width, batch_first=True)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch of images."""
        states, _ = self.rows(x[:, 0])
        return self.head(states[:, -1])


class Lstm(Recurrent):
    """Long short-term memory over the rows."""

    def __init__(self) -> None:
        super().__init__(nn.LSTM)


class Gru(Recurrent):
    """Gated recurrent units over the rows."""

    def __init__(self) -> None:
        super().__init__(nn.GRU)
