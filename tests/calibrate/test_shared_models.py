"""On real models: preprocessing reproduces the published accuracy, statistics find the outlier."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from qcompiler.calibrate import ImageOptions, SampleOptions, samples
from qcompiler.calibrate.collect import CollectOptions, collect

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"

pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is absent"),
]

INPUTS = {"x": ("float32", (1, 3, 224, 224))}


def test_image_folders_reproduce_the_accuracy_of_mobilenet():
    folder = DATA / "mobilenet_v1_025_imagenet"
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    options = SampleOptions(image=ImageOptions(mean=(0.5,), std=(0.5,)))
    feeds = samples(folder / "eval", INPUTS, options=options)
    labels = [int(path.stem) for path in sorted((folder / "eval").iterdir())]
    right = [
        int(np.argmax(session.run(None, feed)[0])) == label
        for feed, label in zip(feeds, labels, strict=True)
    ]
    assert (len(right), sum(right)) == (400, 227)  # 56.75 %


def test_channel_statistics_find_the_massive_activation_of_vit():
    folder = DATA / "vit_tiny_tinyimagenet"

    def feeds():
        with np.load(folder / "calib.npz") as archive:
            images = archive["x"][:4]
        for pixels in images:
            image = Image.fromarray(pixels).resize((256, 256), Image.Resampling.BILINEAR)
            crop = np.asarray(image.crop((16, 16, 240, 240)), np.float32)
            yield (crop.transpose(2, 0, 1) / 255 - 0.5) / 0.5

    model = onnx.load(folder / "model.onnx")
    inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
    hidden = [
        value.name
        for value in inferred
        if [d.dim_value for d in value.type.tensor_type.shape.dim] == [1, 197, 768]
    ]
    found = collect(
        model,
        hidden,
        samples(feeds, INPUTS),
        axes=dict.fromkeys(hidden, -1),
        options=CollectOptions(bins=0, progress=False),
    )
    massive = [s for s in found.values() if s.maximum > 150]
    assert massive
    for statistics in massive:
        assert statistics.channel_maximum.shape == (768,)
        assert np.count_nonzero(statistics.channel_maximum > 20) == 1
