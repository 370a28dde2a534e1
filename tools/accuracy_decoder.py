"""Prefill of a language model: nats per token of the float and the integer model.

    python tools/accuracy_decoder.py --data ../shared/data [--check]     # extra `models`

The first 64 windows of 129 tokens, each without context: 128 predictions.  The bits of numpy and of
the library are compared on the first windows.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM

import qcompiler

WINDOW, WINDOWS, CALIBRATION, COMPARED = 128, 64, 14, 4


@dataclass(frozen=True)
class Bounds:
    """What the integer model must reach: nats per token, and per cent of equal next tokens."""

    nats: float
    agreement: float


MODELS = {
    "llama_stories260k": Bounds(1.825, 89.0),
    "llama_zh_poem750k": Bounds(4.405, 88.0),
}


class Prefill(torch.nn.Module):
    """Tokens to logits, without a cache."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits [1, n, vocabulary] of tokens [1, n]."""
        return self.model(input_ids=tokens, use_cache=False).logits


def windows(stream: np.ndarray, count: int) -> np.ndarray:
    """The first windows of a stream of tokens: int64 [count, WINDOW + 1]."""
    count = min(count, len(stream) // (WINDOW + 1))
    return stream[: count * (WINDOW + 1)].astype(np.int64).reshape(count, WINDOW + 1)


def nats(logits: np.ndarray, tokens: np.ndarray) -> float:
    """Mean of −log p of the tokens that follow."""
    logits = logits.astype(np.float64)
    logits -= logits.max(-1, keepdims=True)
    rest = np.log(np.exp(logits).sum(-1))
    return float(np.mean(rest - np.take_along_axis(logits, tokens[:, None], 1)[:, 0]))


def measure(folder: Path) -> tuple[float, float, float, int, int]:
    """Nats of both models, per cent of equal next tokens, differing values, float instructions."""
    model = Prefill(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval())
    with np.load(folder / "tokens.npz") as tokens:
        calibration, test = (
            windows(tokens[k], n) for k, n in (("calib", CALIBRATION), ("eval", WINDOWS))
        )
    options = qcompiler.Options(require_integer=True)
    example = torch.zeros(1, WINDOW, dtype=torch.int64)
    made = qcompiler.compile_model(
        model, "cpu", [w[None, :-1] for w in calibration], example_inputs=example, options=options
    )
    (x,), (y,) = made.integer.inputs, made.integer.outputs
    found = []
    differing = 0
    for i, window in enumerate(test):
        feeds = {str(x.name): window[None, :-1]}
        integer = np.asarray(made.model(feeds)[y])[0]
        with torch.no_grad():
            real = model(torch.from_numpy(feeds[str(x.name)])).numpy()[0]
        if i < COMPARED:
            other = qcompiler.evaluate(made.integer, feeds)[y][0]
            differing += int((other.view(np.uint32) != integer.view(np.uint32)).sum())
        same = float(np.mean(real.argmax(-1) == integer.argmax(-1)))
        found.append((nats(real, window[1:]), nats(integer, window[1:]), 100 * same))
    real_nats, integer_nats, agreement = np.mean(found, 0)
    instructions = made.model.metadata.float_instructions
    return float(real_nats), float(integer_nats), float(agreement), differing, instructions


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--check", action="store_true", help="exit 1 if a bound does not hold")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    table = Table("model", "float", "integer", "agreement", "differing bits", "holds")
    failed = False
    for name, bounds in MODELS.items():
        real, integer, agreement, differing, instructions = measure(arguments.data / name)
        holds = integer <= bounds.nats and agreement >= bounds.agreement
        holds = holds and not differing and not instructions
        failed |= not holds
        cells = (f"{real:.3f} nats", f"{integer:.3f} nats (≤ {bounds.nats})")
        share = f"{agreement:.1f} % (≥ {bounds.agreement})"
        table.add_row(name, *cells, share, str(differing), "yes" if holds else "NO")
    Console(width=120).print(table)
    return int(failed and arguments.check)


if __name__ == "__main__":
    sys.exit(main())
