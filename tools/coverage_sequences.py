"""Networks of `coverage_architectures.yaml` for sequences, tables and detection, and wrappers."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import transformers
from coverage_nets import conv
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class SSD(nn.Module):
    """Two feature maps, each with boxes and classes: Liu et al. 2016."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            [nn.Sequential(conv(3, 16, 2), conv(16, 32, 2), conv(32, 32, 2)), conv(32, 48, 2)]
        )
        self.boxes = nn.ModuleList([nn.Conv2d(32, 8, 3, padding=1), nn.Conv2d(48, 8, 3, padding=1)])
        self.classes = nn.ModuleList(
            [nn.Conv2d(32, 10, 3, padding=1), nn.Conv2d(48, 10, 3, padding=1)]
        )

    def forward(self, x: Tensor) -> Tensor:
        """Offsets and class probabilities [B, anchors, 4 + 5]."""
        found = []
        for stage, box, score in zip(self.stages, self.boxes, self.classes, strict=True):
            x = stage(x)
            boxes = box(x).permute(0, 2, 3, 1).reshape(len(x), -1, 4)
            scores = score(x).permute(0, 2, 3, 1).reshape(len(x), -1, 5)
            found.append(torch.cat([boxes, scores.softmax(-1)], -1))
        return torch.cat(found, 1)


class YOLO(nn.Module):
    """A spatial pyramid pool and one head that decodes boxes on a grid: Redmon and Farhadi 2018."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(3, 16, 2), conv(16, 32, 2), conv(32, 48, 2))
        self.reduce = conv(48, 24, kernel=1)
        self.expand = conv(96, 48, kernel=1)
        self.top = nn.Sequential(conv(48, 48, 2), nn.Upsample(scale_factor=2.0))
        self.head = nn.Conv2d(96, 3 * 7, 1)
        ys, xs = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
        self.register_buffer("grid", torch.stack([xs, ys], -1))
        self.register_buffer("anchors", torch.tensor([[8.0, 8], [16, 16], [24, 16]]))

    def forward(self, x: Tensor) -> Tensor:
        """Centres, sizes in pixels, objectness and two classes: [B, anchors, 7]."""
        y = self.reduce(self.body(x))
        pools = [y]
        for _ in range(3):
            pools.append(F.max_pool2d(pools[-1], 5, 1, 2))
        y = self.expand(torch.cat(pools, 1))
        y = self.head(torch.cat([y, self.top(y)], 1))
        y = y.reshape(len(y), 3, 7, 8, 8).permute(0, 3, 4, 1, 2).sigmoid()
        xy = (2 * y[..., :2] - 0.5 + self.grid[:, :, None]) * 8
        wh = (2 * y[..., 2:4]) ** 2 * self.anchors
        return torch.cat([xy, wh, y[..., 4:]], -1).reshape(len(y), -1, 7)


class MeanPool(nn.Module):
    """Embeddings, averaged over the unmasked tokens, L2-normalized."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(128, 48)
        self.dense = nn.Linear(48, 32)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Unit vectors [B, 32]."""
        weights = mask[:, :, None].to(torch.float32)
        y = (self.embed(ids) * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
        return F.normalize(self.dense(y), dim=-1)


class _Recurrent(nn.Module):
    """A recurrent layer or two and a classifier of the last step."""

    def __init__(self, layer: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.body = layer(8, 24, batch_first=True, **options)
        self.head = nn.Linear(48 if self.body.bidirectional else 24, 10)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, 8] → logits [B, 10]."""
        return self.head(self.body(x)[0][:, -1])


class LSTMNet(_Recurrent):
    """Two LSTM layers: Hochreiter and Schmidhuber 1997."""

    def __init__(self) -> None:
        super().__init__(nn.LSTM, num_layers=2)


class BiLSTMNet(_Recurrent):
    """An LSTM in both directions."""

    def __init__(self) -> None:
        super().__init__(nn.LSTM, bidirectional=True)


class GRUNet(_Recurrent):
    """Two GRU layers: Cho et al. 2014."""

    def __init__(self) -> None:
        super().__init__(nn.GRU, num_layers=2)


class TCN(nn.Module):
    """Dilated causal convolutions with residuals: Bai et al. 2018."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv1d(8, 16, 1)
        self.layers = nn.ModuleList(nn.Conv1d(16, 16, 3, dilation=2**i) for i in range(3))
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 8, T] → logits [B, 10]."""
        y = self.enter(x)
        for i, layer in enumerate(self.layers):
            y = F.relu(y + layer(F.pad(y, (2 * 2**i, 0))))
        return self.head(y[:, :, -1])


class WaveNet(nn.Module):
    """Gated dilated convolutions, sums of skips: van den Oord et al. 2016."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv1d(8, 16, 1)
        self.gates = nn.ModuleList(nn.Conv1d(16, 32, 2, dilation=2**i) for i in range(3))
        self.outs = nn.ModuleList(nn.Conv1d(16, 16, 1) for _ in range(3))
        self.leave = nn.Sequential(nn.ReLU(), nn.Conv1d(16, 16, 1), nn.ReLU(), nn.Conv1d(16, 8, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[B, 8, T] → [B, 8, T]."""
        y = self.enter(x)
        total = torch.zeros_like(y)
        for i, (gate, out) in enumerate(zip(self.gates, self.outs, strict=True)):
            a, b = gate(F.pad(y, (2**i, 0))).chunk(2, 1)
            step = out(torch.tanh(a) * torch.sigmoid(b))
            total, y = total + step, y + step
        return self.leave(total)


class NBeats(nn.Module):
    """Doubly residual stacks of dense layers: Oreshkin et al. 2020."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU())
            for _ in range(3)
        )
        self.back = nn.ModuleList(nn.Linear(48, 32) for _ in range(3))
        self.ahead = nn.ModuleList(nn.Linear(48, 8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """[B, 32] → the next 8 values."""
        forecast = x[:, -1:].expand(-1, 8)
        for block, back, ahead in zip(self.blocks, self.back, self.ahead, strict=True):
            y = block(x)
            x, forecast = x - back(y), forecast + ahead(y)
        return forecast


class TabularNet(nn.Module):
    """Numbers and embedded categories into a perceptron."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(128, 8)
        self.body = nn.Sequential(
            nn.Linear(40, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 2)
        )

    def forward(self, x: Tensor, category: Tensor) -> Tensor:
        """[B, 8] and ids [B, 4] → logits [B, 2]."""
        return self.body(torch.cat([x, self.embed(category).flatten(1)], -1))


class MLPMixer(nn.Module):
    """Perceptrons over patches and over channels: Tolstikhin et al. 2021."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 8, 8)
        self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(3))
        self.tokens = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.channels = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, 32, 32] → logits [B, 10]."""
        y = self.patches(x).flatten(2).transpose(1, 2)
        y = y + self.tokens(self.norms[0](y).transpose(1, 2)).transpose(1, 2)
        y = y + self.channels(self.norms[1](y))
        return self.head(self.norms[2](y).mean(1))


class KeywordNet(nn.Sequential):
    """Depthwise separable convolutions over a spectrogram: Zhang et al. 2017."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 24, (10, 4), (2, 2), (5, 1), bias=False),
            nn.BatchNorm2d(24),
            nn.ReLU(),
            nn.Conv2d(24, 24, 3, padding=1, groups=24, bias=False),
            nn.BatchNorm2d(24),
            nn.ReLU(),
            conv(24, 24, kernel=1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(24, 12),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, 1, 49, 10] → logits [B, 12]."""
        return super().forward(x)


class VideoCNN(nn.Sequential):
    """Convolutions over time and space: Tran et al. 2015."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv3d(3, 16, 3, padding=1),
            nn.BatchNorm3d(16),
            nn.ReLU(),
            nn.MaxPool3d((1, 2, 2)),
            nn.Conv3d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.AvgPool3d(2),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
            nn.Linear(32, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, T, H, W] → logits [B, 10]."""
        return super().forward(x)


class WhisperEncoderNet(nn.Module):
    """The encoder of Whisper: Radford et al. 2023."""

    def __init__(self) -> None:
        super().__init__()
        config = transformers.WhisperConfig(
            d_model=48, encoder_layers=2, encoder_attention_heads=4, encoder_ffn_dim=96,
            num_mel_bins=16, max_source_positions=16,
        )  # fmt: skip
        config._attn_implementation = "eager"
        self.encoder = transformers.WhisperModel(config).encoder

    def forward(self, x: Tensor) -> Tensor:
        """Spectrogram [B, 16, 32] → [B, 16, 48]."""
        return self.encoder(x).last_hidden_state


class SpeechToTextEncoderNet(nn.Module):
    """The encoder of Speech2Text: Wang et al. 2020."""

    def __init__(self) -> None:
        super().__init__()
        config = transformers.Speech2TextConfig(
            d_model=48, encoder_layers=2, encoder_attention_heads=4, encoder_ffn_dim=96,
            input_feat_per_channel=16, conv_channels=32, max_source_positions=64, vocab_size=128,
        )  # fmt: skip
        config._attn_implementation = "eager"
        self.encoder = transformers.Speech2TextModel(config).encoder

    def forward(self, x: Tensor) -> Tensor:
        """Features [B, T, 16] → [B, T / 4, 48]."""
        return self.encoder(x).last_hidden_state


class EncodecEncoderNet(nn.Module):
    """The encoder of EnCodec: Défossez et al. 2022."""

    def __init__(self) -> None:
        super().__init__()
        config = transformers.EncodecConfig(
            num_filters=4, hidden_size=16, upsampling_ratios=[4, 2], codebook_dim=16,
            num_lstm_layers=1,
        )  # fmt: skip
        self.encoder = transformers.EncodecModel(config).encoder

    def forward(self, x: Tensor) -> Tensor:
        """Waveform [B, 1, T] → [B, 16, T / 8]."""
        return self.encoder(x)


class SuperPointEncoderNet(nn.Module):
    """SuperPoint without its choice of keypoints: scores and descriptors (DeTone et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [1, 8, 16, 16]
        self.body = nn.Sequential(*(conv(a, b, 2) for a, b in pairwise(sizes)))
        self.scores = nn.Conv2d(16, 65, 1)
        self.descriptors = nn.Conv2d(16, 32, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities [B, H, W] and unit descriptors [B, 32, H / 8, W / 8]."""
        y = self.body(x)
        scores = self.scores(y).softmax(1)[:, :-1]
        descriptors = F.normalize(self.descriptors(y), dim=1)
        return F.pixel_shuffle(scores, 8)[:, 0], descriptors
