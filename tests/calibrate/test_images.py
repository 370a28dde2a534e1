"""Folders of images: the usual preprocessing, both layouts, and refusals."""

import numpy as np
import pytest
from PIL import Image

from qcompiler.calibrate import ImageOptions, SampleOptions, samples
from qcompiler.errors import CalibrationError, FileError

NCHW = {"x": ("float32", (1, 3, 6, 8))}
NHWC = {"x": ("float32", (1, 6, 8, 3))}
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 6, 8, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    for number, pixels in enumerate(PIXELS):
        path = tmp_path / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
    (tmp_path / "labels.txt").write_text("not an image")
    return tmp_path


ORDER = [0, 2, 4, 1, 3]  # by path: class0/0, 2, 4, class1/1, 3


def feeds(folder, inputs, options=None, **image):
    chosen = options or SampleOptions(image=ImageOptions(**image))
    return [feed["x"] for feed in samples(folder, inputs, options=chosen)]


def test_pixels_become_zero_to_one_in_the_order_of_the_paths(folder):
    found = feeds(folder, NHWC)
    expected = PIXELS[ORDER].astype(np.float32) / np.float32(255)
    assert [x.shape for x in found] == [(1, 6, 8, 3)] * 5
    assert np.array_equal(np.concatenate(found), expected)
    assert np.array_equal(np.concatenate(feeds(folder, NCHW)), expected.transpose(0, 3, 1, 2))


def test_mean_and_std_are_in_units_of_zero_to_one(folder):
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    found = np.concatenate(feeds(folder, NCHW, mean=mean, std=std))
    expected = (PIXELS[ORDER] / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(found, expected.transpose(0, 3, 1, 2), atol=1e-5)


def test_batches_limit_and_seed(folder):
    batches = {"x": ("float32", (2, 3, 6, 8))}
    assert [x.shape for x in feeds(folder, batches)] == [(2, 3, 6, 8)] * 2
    first = np.concatenate(feeds(folder, batches, SampleOptions(2)))
    everything = np.concatenate(feeds(folder, NCHW))
    assert np.array_equal(first, everything[:2])
    rows = np.sort(np.random.default_rng(1).choice(5, 3, replace=False))
    chosen = np.concatenate(feeds(folder, NCHW, SampleOptions(3, seed=1)))
    assert np.array_equal(chosen, everything[rows])


def test_raw_pixels_for_a_uint8_input(folder):
    found = feeds(folder, {"x": ("uint8", (1, 6, 8, 3))})
    assert np.array_equal(np.concatenate(found), PIXELS[ORDER])
    with pytest.raises(CalibrationError, match="'x' is uint8 and takes raw pixels"):
        feeds(folder, {"x": ("uint8", (1, 6, 8, 3))}, mean=(0.5,))


def test_gray_inputs_and_other_modes(tmp_path):
    gray = PIXELS[0, :, :, 0]
    Image.fromarray(gray).save(tmp_path / "gray.png")
    found = feeds(tmp_path, {"x": ("float32", (1, 1, 6, 8))})
    assert np.array_equal(found[0][0, 0], gray.astype(np.float32) / np.float32(255))
    assert np.array_equal(feeds(tmp_path, NHWC)[0][0, :, :, 2], found[0][0, 0])
    Image.fromarray(np.dstack([PIXELS[0], gray])).save(tmp_path / "gray.png")  # with alpha
    assert np.array_equal(feeds(tmp_path, NHWC)[0][0] * np.float32(255), PIXELS[0])


@pytest.mark.parametrize(
    ("resize", "size"),
    [(None, (12, 9)), (12, (18, 12)), ((10, 20), (20, 10))],
    ids=["cover", "shorter side", "exact"],
)
def test_resize_then_centre_crop(tmp_path, resize, size):
    pixels = np.random.default_rng(2).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    # Covering 8 x 9 (height x width) of 20 x 30 takes the factor 0.4: 8 x 12.
    height, width = 8, 9
    wide = (12, 8) if resize is None else size
    resized = np.asarray(Image.fromarray(pixels).resize(wide, Image.Resampling.BILINEAR))
    top, left = (wide[1] - height) // 2, (wide[0] - width) // 2
    expected = resized[top : top + height, left : left + width]
    found = feeds(tmp_path, {"x": ("float32", (1, height, width, 3))}, resize=resize)
    assert np.array_equal(found[0][0], expected.astype(np.float32) / np.float32(255))


def test_layout_by_option_where_both_fit(tmp_path):
    Image.fromarray(PIXELS[0, :3, :3]).save(tmp_path / "a.png")
    inputs = {"x": ("float32", (1, 3, 3, 3))}
    first, last = feeds(tmp_path, inputs, layout="NCHW"), feeds(tmp_path, inputs, layout="NHWC")
    assert np.array_equal(first[0][0], last[0][0].transpose(2, 0, 1))
    assert np.array_equal(feeds(tmp_path, inputs)[0], first[0])


@pytest.mark.parametrize(
    ("inputs", "image", "message"),
    [
        ({"x": ("float32", (1, 12))}, {}, r"takes 'x' \[1, 12\]: expected one input \[N, C"),
        ({**NCHW, "y": ("float32", (1,))}, {}, r"'y' \[1\]: expected one input"),
        ({"x": ("float32", (1, 4, 6, 8))}, {}, "and so 8 channels, expected 1 or 3"),
        ({"x": ("int64", (1, 3, 6, 8))}, {}, "'x' is int64, expected float or uint8"),
        (NCHW, {"mean": (0.1, 0.2)}, "do not fit input 'x' of 3 channels"),
        (NCHW, {"resize": 5}, r"resized to 5 are smaller than input 'x' \(6x8\)"),
        (NCHW, {"resize": (6, 7)}, r"resized to \(6, 7\) are smaller"),
        (NCHW, {"resize": (5, 9)}, r"resized to \(5, 9\) are smaller"),
    ],
)
def test_refused(folder, inputs, image, message):
    with pytest.raises(CalibrationError, match=message):
        feeds(folder, inputs, **image)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ({"mean": (123.7, 116.3, 103.5)}, "units of 0..1: divide by 255"),
        ({"std": (58.4,)}, "units of 0..1: divide by 255"),
        ({"std": (1.5,)}, "units of 0..1: divide by 255"),
        ({"std": (0.0,)}, "above 0"),
        ({"layout": "CHWN"}, "expected auto, NCHW or NHWC"),
    ],
)
def test_options_are_checked(image, message):
    with pytest.raises(CalibrationError, match=message):
        ImageOptions(**image)


def test_empty_folders_and_broken_images(folder, tmp_path_factory):
    with pytest.raises(CalibrationError, match=r"no images in .*: expected files ending in"):
        feeds(tmp_path_factory.mktemp("empty"), NCHW)
    whole = (folder / "class0" / "0.png").read_bytes()
    for content in (b"no image", whole[: len(whole) // 2]):
        (folder / "class0" / "0.png").write_bytes(content)
        with pytest.raises(FileError, match=r"cannot read image .*0.png"):
            feeds(folder, NCHW)
