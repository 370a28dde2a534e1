"""A detector on COCO images: mean average precision of the float and the integer model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 320
STRIDES = (8, 16, 32)
BINS = 8
MEAN = np.array((103.53, 116.28, 123.675), np.float32)
STD = np.array((57.375, 57.12, 58.395), np.float32)
THRESHOLD = 0.01
OVERLAP = 0.6
CANDIDATES, MOST = 200, 300
"""Boxes of one class that are compared, and of one image that are scored."""

Detections = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Boxes [n, 4] (left, top, right, bottom, in pixels of the letterbox), scores [n], classes [n]."""


def images(folder: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Inputs [1, 3, 320, 320] in BGR, and boxes [n, 5]: class, left, top, right, bottom."""
    for path in sorted(folder.glob("*.jpg")):
        picture = Image.open(path).convert("RGB")
        scale = SIZE / max(picture.size)
        width, height = (round(d * scale) for d in picture.size)
        left, top = (SIZE - width) // 2, (SIZE - height) // 2
        square = np.zeros((SIZE, SIZE, 3), np.float32)
        resized = picture.resize((width, height), Image.Resampling.BILINEAR)
        square[top : top + height, left : left + width] = np.asarray(resized, np.float32)[..., ::-1]
        x = ((square - MEAN) / STD).transpose(2, 0, 1)[None]
        labels = path.with_suffix(".txt")
        rows = np.loadtxt(labels, ndmin=2) if labels.exists() else np.zeros((0, 5))
        rows = rows.reshape(-1, 5)
        centre = rows[:, 1:3] * (width, height) + (left, top)
        half = rows[:, 3:5] * (width, height) / 2
        yield np.ascontiguousarray(x), np.hstack([rows[:, :1], centre - half, centre + half])


def detections(outputs: dict[str, np.ndarray]) -> Detections:
    """Boxes above the threshold, suppressed class by class."""
    boxes, scores = [], []
    for stride in STRIDES:
        cells = SIZE // stride
        (score,) = (y for y in outputs.values() if y.shape == (cells * cells, 80))
        (bins,) = (y for y in outputs.values() if y.shape == (cells * cells, 4 * BINS))
        weights = np.exp(bins.reshape(-1, 4, BINS) - bins.max())
        distance = (weights @ np.arange(BINS)) / weights.sum(-1) * stride
        y, x = np.divmod(np.arange(cells * cells), cells)
        x, y = ((v + 0.5) * stride - 0.5 for v in (x, y))
        left, top, right, bottom = distance.T
        boxes.append(np.stack([x - left, y - top, x + right, y + bottom], 1))
        scores.append(score)
    return _suppressed(np.concatenate(boxes), np.concatenate(scores))


def _suppressed(boxes: np.ndarray, scores: np.ndarray) -> Detections:
    """The best boxes of each class that overlap no better one of it (greedily)."""
    kept: list[tuple[int, int]] = []
    for c in np.flatnonzero(scores.max(0) > THRESHOLD):
        order = np.argsort(-scores[:, c], kind="stable")
        order = order[scores[order, c] > THRESHOLD][:CANDIDATES]
        clash = overlaps(boxes[order, None], boxes[None, order]) > OVERLAP
        free = np.ones(len(order), bool)
        for i in range(len(order)):
            if free[i]:
                free[i + 1 :] &= ~clash[i, i + 1 :]
        kept += [(int(i), int(c)) for i in order[free]]
    kept.sort(key=lambda pair: -scores[pair])
    rows, classes = np.array(kept[:MOST], np.int64).reshape(-1, 2).T
    return boxes[rows], scores[rows, classes], classes


def overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes [..., 4] that broadcast together."""
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
    shared = np.prod(np.clip(high - low, 0, None), -1)
    both = sum(np.prod(x[..., 2:] - x[..., :2], -1) for x in (a, b))
    return np.asarray(shared / np.maximum(both - shared, 1e-9))


def average_precision(
    found: list[Detections], labels: list[np.ndarray], overlap: float = 0.5
) -> float:
    """Mean over the classes that occur, of the area under precision (101 points, as in COCO)."""
    precisions = []
    for c in sorted({int(v) for rows in labels for v in rows[:, 0]}):
        truth = [rows[rows[:, 0] == c, 1:] for rows in labels]
        hits: list[tuple[float, bool]] = []
        for (boxes, scores, classes), expected in zip(found, truth, strict=True):
            taken: set[int] = set()
            for i in np.flatnonzero(classes == c):
                match = overlaps(boxes[i], expected) if len(expected) else np.zeros(0)
                free = [(v, j) for j, v in enumerate(match) if v >= overlap and j not in taken]
                if free:
                    taken.add(max(free)[1])
                hits.append((float(scores[i]), bool(free)))
        precisions.append(_area([hit for _, hit in sorted(hits, key=lambda h: -h[0])], truth))
    return float(np.mean(precisions))


def _area(hits: list[bool], truth: list[np.ndarray]) -> float:
    total = sum(map(len, truth))
    right = np.cumsum(hits)
    recall = right / total
    precision = right / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(recall, np.linspace(0, 1, 101))
    return float(np.mean([envelope[i] if i < len(hits) else 0.0 for i in places]))


def mean_average_precision(
    run: Callable[[np.ndarray], dict[str, np.ndarray]], folder: Path
) -> float:
    """mAP at an overlap of 0.5, in per cent, of a detector on a folder of images and labels."""
    pairs = list(images(folder))
    found = [detections(run(x)) for x, _ in pairs]
    return 100 * average_precision(found, [labels for _, labels in pairs])
