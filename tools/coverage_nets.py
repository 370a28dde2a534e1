"""Networks of `coverage_architectures.yaml` that make images and that `transformers` lacks."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


def conv(inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    """Convolution, batch normalization, SiLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.SiLU(),
    )


class ESPCN(nn.Sequential):
    """Sub-pixel super-resolution: Shi et al. 2016."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 16, 5, padding=2),
            nn.Tanh(),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.Tanh(),
            nn.Conv2d(16, 12, 3, padding=1),
            nn.PixelShuffle(2),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] → [B, 3, 2H, 2W]."""
        return super().forward(x)


class EDSR(nn.Module):
    """Residual super-resolution: Lim et al. 2017."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 16, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1)
            )
            for _ in range(3)
        )
        self.tail = nn.Sequential(
            nn.Conv2d(16, 64, 3, padding=1), nn.PixelShuffle(2), nn.Conv2d(16, 3, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] → [B, 3, 2H, 2W], beside a bilinear enlargement."""
        first = y = self.head(x)
        for block in self.blocks:
            y = y + 0.1 * block(y)
        large = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return self.tail(y + first) + large


class Autoencoder(nn.Sequential):
    """Strided convolutions down, transposed ones up; one channel out."""

    def __init__(self) -> None:
        super().__init__(
            conv(3, 16, 2),
            conv(16, 32, 2),
            nn.ConvTranspose2d(32, 16, 4, 2, 1),
            nn.LeakyReLU(0.1),
            nn.ConvTranspose2d(16, 8, 3, 2, 1, output_padding=1),
            nn.PReLU(8),
            nn.Conv2d(8, 1, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] → [B, 1, H, W]."""
        return super().forward(x)


def embed_time(time: Tensor, size: int) -> Tensor:
    """Sines and cosines of a time in 0 to 1: [B, 1] → [B, size]."""
    rates = torch.exp(torch.linspace(0, math.log(100), size // 2))
    angles = time * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class Residual(nn.Module):
    """Two convolutions with group normalization and a time: Ho et al. 2020."""

    def __init__(self, inputs: int, outputs: int, time: int = 32) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.GroupNorm(4, inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1)
        )
        self.time = nn.Linear(time, outputs)
        self.second = nn.Sequential(
            nn.GroupNorm(4, outputs), nn.SiLU(), nn.Conv2d(outputs, outputs, 3, padding=1)
        )
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """[B, inputs, H, W] → [B, outputs, H, W]."""
        y = self.first(x) + self.time(F.silu(t))[:, :, None, None]
        return self.skip(x) + self.second(y)


class Attention2d(nn.Module):
    """Self-attention over the pixels, one head."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(4, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] → the same."""
        b, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, 3, c, h * w).unbind(1)
        weights = torch.softmax(q.transpose(1, 2) @ k * c**-0.5, dim=-1)
        return x + self.out((v @ weights.transpose(1, 2)).reshape(b, c, h, w))


class DiffusionUNet(nn.Module):
    """A denoising network of two resolutions: Ho et al. 2020."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(16, 32), nn.SiLU(), nn.Linear(32, 32))
        self.enter = nn.Conv2d(3, 16, 3, padding=1)
        self.down = Residual(16, 16)
        self.reduce = nn.Conv2d(16, 32, 3, 2, 1)
        self.middle = nn.ModuleList([Residual(32, 32), Residual(32, 32)])
        self.attention = Attention2d(32)
        self.up = Residual(48, 16)
        self.leave = nn.Sequential(nn.GroupNorm(4, 16), nn.SiLU(), nn.Conv2d(16, 3, 3, padding=1))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """The predicted noise, [B, 3, H, W]; time [B, 1] in 0 to 1."""
        t = self.time(embed_time(time, 16))
        high = self.down(self.enter(x), t)
        y = self.middle[0](self.reduce(high), t)
        y = self.middle[1](self.attention(y), t)
        y = F.interpolate(y, scale_factor=2.0, mode="nearest")
        return self.leave(self.up(torch.cat([y, high], 1), t))


class LatentDecoder(nn.Module):
    """From latents to pixels, as in latent diffusion: Rombach et al. 2022."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(4, 32, 3, padding=1)
        self.attention = Attention2d(32)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.GroupNorm(4, 32), nn.SiLU(), nn.Conv2d(32, 32, 3, padding=1))
            for _ in range(2)
        )
        self.leave = nn.Sequential(nn.GroupNorm(4, 32), nn.SiLU(), nn.Conv2d(32, 3, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """[B, 4, H, W] → [B, 3, 4H, 4W] in −1 to 1."""
        y = self.attention(self.enter(x))
        for block in self.blocks:
            y = F.interpolate(y + block(y), scale_factor=2.0, mode="nearest")
        return torch.tanh(self.leave(y))


class DiT(nn.Module):
    """A diffusion transformer with adaptive normalization: Peebles and Xie 2023."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(4, 48, 4, 4)
        self.time = nn.Sequential(nn.Linear(16, 48), nn.SiLU(), nn.Linear(48, 6 * 48))
        self.norms = nn.ModuleList(nn.LayerNorm(48, elementwise_affine=False) for _ in range(3))
        self.attention = nn.MultiheadAttention(48, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(48, 96), nn.GELU(approximate="tanh"), nn.Linear(96, 48))
        self.leave = nn.Linear(48, 64)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """The predicted noise, [B, 4, H, W]."""
        b, c, h, w = x.shape
        y = self.patches(x).flatten(2).transpose(1, 2)
        shift, scale, gate, shift2, scale2, gate2 = (
            0.3 * self.time(embed_time(time, 16))[:, None]
        ).chunk(6, dim=-1)
        n = self.norms[0](y) * (1 + scale) + shift
        y = y + gate * self.attention(n, n, n, need_weights=False)[0]
        y = y + gate2 * self.mlp(self.norms[1](y) * (1 + scale2) + shift2)
        y = self.leave(self.norms[2](y)).reshape(b, h // 4, w // 4, 4, 4, c)
        return y.permute(0, 5, 1, 3, 2, 4).reshape(b, c, h, w)


class Generator(nn.Sequential):
    """DCGAN's generator: Radford et al. 2016."""

    def __init__(self) -> None:
        super().__init__(
            nn.Unflatten(1, (32, 1, 1)),
            nn.ConvTranspose2d(32, 32, 4, 1, 0, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.ConvTranspose2d(32, 16, 4, 2, 1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 3, 4, 2, 1, bias=False),
            nn.Tanh(),
        )

    def forward(self, z: Tensor) -> Tensor:
        """[B, 32] → [B, 3, 16, 16]."""
        return super().forward(z)


class UNet(nn.Module):
    """Segmentation with skips and transposed convolutions: Ronneberger et al. 2015."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([conv(3, 16), conv(16, 32), conv(32, 48)])
        self.up = nn.ModuleList(
            [nn.ConvTranspose2d(48, 32, 2, 2), nn.ConvTranspose2d(32, 16, 2, 2)]
        )
        self.join = nn.ModuleList([conv(64, 32), conv(32, 16)])
        self.leave = nn.Conv2d(16, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Probabilities [B, 1, H, W]."""
        a = self.down[0](x)
        b = self.down[1](F.max_pool2d(a, 2))
        y = self.down[2](F.max_pool2d(b, 2))
        y = self.join[0](torch.cat([self.up[0](y), b], 1))
        y = self.join[1](torch.cat([self.up[1](y), a], 1))
        return torch.sigmoid(self.leave(y))
