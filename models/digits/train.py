"""Train the demo models on scikit-learn's handwritten digits; see ../README.md.

One command writes all committed files: ``python models/digits/train.py``; names choose models.
Same machine, same bytes.
"""

import argparse
import sys
from pathlib import Path

try:
    import numpy as np
    import onnxruntime as ort
    import torch
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
    from torch import Tensor, nn
except ImportError as error:
    sys.exit(f"train.py needs {error.name}: pip install 'qcompiler[models]'")

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from export import export_model
from networks import Cnn, Gru, Lstm, Vit

SEED = 0
TEST_IMAGES = 400
CALIBRATION_IMAGES = 200
MODELS: dict[str, tuple[type[nn.Module], int, float]] = {
    # class, epochs, peak learning rate
    "cnn": (Cnn, 30, 1e-2),
    "vit": (Vit, 80, 2e-3),
    "lstm": (Lstm, 60, 1e-2),
    "gru": (Gru, 60, 1e-2),
}


def load_data() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return training images and labels, then test images and labels.

    Images are float32 [N, 1, 8, 8] in [0, 1], labels int64 [N].
    """
    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)[:, None]
    labels = digits.target.astype(np.int64)
    x, x_test, y, y_test = train_test_split(
        images, labels, test_size=TEST_IMAGES, random_state=SEED, stratify=labels
    )
    return x, y, x_test, y_test


def shift(x: Tensor) -> Tensor:
    """Move each image by -1, 0 or 1 pixels in both directions, filling with background."""
    count = x.shape[0]
    padded = nn.functional.pad(x[:, 0], (1, 1, 1, 1))
    dy, dx = torch.randint(0, 3, (2, count, 1, 1))
    row = torch.arange(8)[None, :, None] + dy
    column = torch.arange(8)[None, None, :] + dx
    return padded[torch.arange(count)[:, None, None], row, column][:, None]


def train(name: str, images: np.ndarray, labels: np.ndarray, batch: int = 64) -> nn.Module:
    """Return the model called ``name``, trained on ``images`` and ``labels``.

    AdamW with a one-cycle learning rate and random shifts by one pixel.
    """
    network, epochs, rate = MODELS[name]
    torch.manual_seed(SEED)
    model = network().train()
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    steps = len(x) // batch
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=epochs * steps)
    for _ in range(epochs):
        for chosen in torch.randperm(len(x))[: steps * batch].split(batch):
            loss = nn.functional.cross_entropy(model(shift(x[chosen])), y[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def accuracy(path: Path, images: np.ndarray, labels: np.ndarray) -> float:
    """Return the fraction of ``images`` that the ONNX file classifies as ``labels`` say."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    logits = [session.run(None, {"x": image[None]})[0][0] for image in images]
    return float((np.argmax(logits, axis=1) == labels).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent, help="directory to write to"
    )
    parser.add_argument("names", nargs="*", help=f"of {', '.join(MODELS)}; all by default")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(MODELS):
        parser.error(f"no such model: {', '.join(sorted(unknown))}")
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)  # sums in one order, whatever the number of cores
    x, y, x_test, y_test = load_data()
    np.savez_compressed(out / "calib.npz", x=x[:CALIBRATION_IMAGES])
    np.savez_compressed(out / "test.npz", x=x_test, y=y_test)
    for name in arguments.names or MODELS:
        model = train(name, x, y)
        path = out / f"{name}.onnx"
        export_model(model, {"x": torch.from_numpy(x_test[:1])}, path)
        hits = accuracy(path, x_test, y_test)
        print(f"{path.name}: {hits:.2%} of {len(y_test)} test images, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
