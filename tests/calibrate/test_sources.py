"""Every kind of source gives the same feeds, and what does not fit is refused by name."""

import gc
import pickle
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from qcompiler.calibrate import SampleOptions, samples
from qcompiler.calibrate.spool import Spool
from qcompiler.errors import (
    CalibrationError,
    FileError,
    OutputError,
    QcompilerError,
    UnsupportedError,
    UsageError,
)

ONE = {"image": ("float32", (2, 3))}
TWO = {"ids": ("int64", (2, 4)), "mask": ("float32", (2, 4))}
X = np.arange(21, dtype=np.float32).reshape(7, 3)
IDS = np.arange(20, dtype=np.int64).reshape(5, 4)
MASK = np.ones((5, 4), np.float32)


def values(feeds, name="image"):
    return [feed[name].tolist() for feed in feeds]


def first_batches(count, rows=X, size=2):
    return [rows[i * size : (i + 1) * size].tolist() for i in range(count)]


def stored(kind, folder, rows):
    if kind == "array":
        return rows
    if kind == "dict":
        return {"image": rows, "label": np.arange(7)}
    if kind == "npy":
        np.save(folder / "rows.npy", rows)
        return folder / "rows.npy"
    if kind == "compressed":
        np.savez_compressed(folder / "rows.npz", image=rows, label=np.array(["a", "b"]))
    else:
        np.savez(folder / "rows.npz", **{kind: rows})
    return str(folder / "rows.npz")


KINDS = ["array", "dict", "npy", "compressed", "image", "x", "any name"]


@pytest.mark.parametrize("kind", KINDS)
def test_stored_data_are_cut_into_batches(kind, tmp_path):
    feeds = samples(stored(kind, tmp_path, X), ONE)
    assert feeds.runs == 3  # 7 samples, batches of 2: the last sample is dropped
    assert values(feeds) == first_batches(3)
    assert values(feeds) == first_batches(3)  # a second walk
    assert all(f["image"].dtype == np.float32 and f["image"].shape == (2, 3) for f in feeds)


@pytest.mark.parametrize("kind", KINDS)
def test_limit_and_seed(kind, tmp_path):
    source = stored(kind, tmp_path, X)
    assert values(samples(source, ONE, options=SampleOptions(5))) == first_batches(2)
    chosen = samples(source, ONE, options=SampleOptions(4, seed=3))
    rows = np.sort(np.random.default_rng(3).choice(7, 4, replace=False))
    assert rows.tolist() != [0, 1, 2, 3]
    assert values(chosen) == first_batches(2, X[rows])
    assert values(chosen) == first_batches(2, X[rows])


STREAMS = {
    "list of samples": list(X),
    "list of batches": [X[:2], X[2:4], X[4:6]],
    "uneven": [X[:1], X[1:6], X[6:]],
    "dicts": [{"image": x, "label": 3} for x in X],
    "tuples": [(x,) for x in X],
    "lists": [[x] for x in X.tolist()],
    "callable": lambda: iter(X),
    "callable array": lambda: X,
}


@pytest.mark.parametrize("kind", STREAMS)
def test_streams_are_joined_to_batches(kind):
    feeds = samples(STREAMS[kind], ONE)
    assert values(feeds) == first_batches(3)
    assert values(feeds) == first_batches(3)
    assert values(samples(STREAMS[kind], ONE, options=SampleOptions(5))) == first_batches(2)


def test_an_iterator_is_read_once_and_no_further_than_asked():
    iterator = iter(X)
    feeds = samples(iterator, ONE, options=SampleOptions(4))
    for feed in feeds:
        assert feed["image"].tolist() == X[:2].tolist()
        break
    assert values(feeds) == first_batches(2)
    assert next(iterator).tolist() == X[4].tolist()
    assert values(feeds) == first_batches(2)


def test_walks_of_a_generator_may_cross():
    feeds = samples((row for row in X), ONE)
    assert [values(pair)[0] for pair in zip(feeds, feeds, strict=True)] == first_batches(3)


def test_a_walk_that_is_ahead_goes_on_behind_what_is_stored():
    feeds = samples((row for row in X), ONE)
    ahead, behind = iter(feeds), iter(feeds)
    found = [next(ahead), next(ahead), next(behind), next(ahead)]
    assert values(found) == [first_batches(3)[i] for i in (0, 1, 0, 2)]
    assert values(behind) == first_batches(3)[1:]


def test_a_generator_is_spooled_without_a_trace(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    open_files = Path("/proc/self/fd")
    before = len(list(open_files.iterdir())) if open_files.exists() else 0

    def rows():
        yield from X[:5]
        raise RuntimeError("the camera is gone")

    feeds = samples(rows(), ONE)
    for _ in range(2):  # what is stored by then is not all there is
        with pytest.raises(RuntimeError, match="the camera is gone"):
            list(feeds)
    del feeds
    gc.collect()
    assert list(tmp_path.iterdir()) == []
    if open_files.exists():
        assert len(list(open_files.iterdir())) == before


def test_several_inputs_of_an_iterator_are_spooled():
    items = [{"ids": i, "mask": m, "scale": 2.0} for i, m in zip(IDS, MASK, strict=True)]
    inputs = {"ids": ("int64", (1, 4)), "mask": ("float32", (1, 4)), "scale": ("bfloat16", ())}
    expected, feeds = list(samples(items, inputs)), samples(iter(items), inputs)
    for _ in range(2):
        for feed, other in zip(feeds, expected, strict=True):
            assert list(feed) == list(other)
            for name, array in feed.items():
                assert array.dtype == other[name].dtype
                assert array.shape == other[name].shape
                assert (array == other[name]).all()


def test_a_spool_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    with pytest.raises(
        OutputError, match=r"samples of an iterator in .*absent \(No such file"
    ) as e:
        list(samples(iter(X), ONE))
    assert "\n" not in str(e.value)


def test_feeds_that_differ_cannot_be_spooled():
    with pytest.raises(CalibrationError, match=r"sample 1 of an iterator has x: .*\[3\], the"):
        list(Spool(iter([{"x": X[0, :2]}, {"x": X[0]}])))


@pytest.mark.parametrize("kind", ["dict", "npz", "tuples", "dicts"])
def test_several_inputs(kind, tmp_path):
    np.savez(tmp_path / "d.npz", mask=MASK, ids=IDS, y=np.zeros(5))
    source = {
        "dict": {"mask": MASK, "ids": IDS},
        "npz": tmp_path / "d.npz",
        "tuples": list(zip(IDS, MASK, strict=True)),
        "dicts": [{"mask": m, "ids": i} for i, m in zip(IDS, MASK, strict=True)],
    }[kind]
    feeds = list(samples(source, TWO))
    assert values(feeds, "ids") == first_batches(2, IDS)
    assert values(feeds, "mask") == first_batches(2, MASK)
    assert [list(feed) for feed in feeds] == [["ids", "mask"]] * 2


def test_each_input_has_its_own_batch_and_scalars_have_none():
    inputs = {"x": ("float32", (2, 3)), "mask": ("float32", (1, 2)), "scale": ("float32", ())}
    masks = np.arange(6, dtype=np.float32).reshape(3, 2)
    feeds = list(samples({"x": X[:6], "mask": masks, "scale": np.arange(3.0)}, inputs))
    assert values(feeds, "x") == first_batches(3)
    assert values(feeds, "mask") == first_batches(3, masks, 1)
    assert [feed["scale"].shape for feed in feeds] == [()] * 3
    assert values(feeds, "scale") == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("dtype", ["float16", "float64", ">f4", "int8", "int64", "uint16"])
def test_numbers_are_cast_to_a_float_input(dtype, tmp_path):
    for kind in ("array", "image"):
        feeds = list(samples(stored(kind, tmp_path, X.astype(dtype)), ONE))
        assert values(feeds) == first_batches(3)
        assert all(feed["image"].dtype == np.float32 for feed in feeds)


def test_fortran_order_files(tmp_path):
    np.savez(tmp_path / "f.npz", x=np.asfortranarray(X))
    assert values(samples(tmp_path / "f.npz", ONE)) == first_batches(3)


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_versions_of_the_file_format(tmp_path, version):
    with (tmp_path / "x.npy").open("wb") as file:
        np.lib.format.write_array(file, X, version)
    assert values(samples(tmp_path / "x.npy", ONE)) == first_batches(3)


def test_a_single_sample_needs_no_batch_dimension(tmp_path):
    np.savez(tmp_path / "one.npz", x=X[0])
    assert values(samples(tmp_path / "one.npz", {"image": ("float32", (1, 3))})) == [[[0, 1, 2]]]


def test_what_converts_to_an_array_is_one():
    class Tensor:
        def __array__(self, dtype=None, copy=None):
            return X

    assert values(samples(Tensor(), ONE)) == first_batches(3)
    assert values(samples([Tensor()], ONE)) == first_batches(3)


def test_archives_are_streamed(tmp_path):
    rows = np.random.default_rng(0).standard_normal((2000, 1000)).astype(np.float32)
    np.savez_compressed(tmp_path / "big.npz", x=rows)
    inputs = {"x": ("float32", (1, 1000))}
    tracemalloc.start()
    total = sum(float(feed["x"].sum()) for feed in samples(tmp_path / "big.npz", inputs))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == pytest.approx(float(rows.sum()), rel=1e-3)
    assert peak < 2_000_000 < rows.nbytes


def bad(array):
    changed = X.copy()
    changed[5, 1] = array
    return changed


REFUSED = {
    "names": ({"a": X, "b": X}, r"input 'image'; .* inputs are 'image', found 'a', 'b'"),
    "shape": (X[:, :2], r"'image' has shape \[7, 2\], expected \[N, 3\]"),
    "rank": (X[None, None], r"'image' has shape \[1, 1, 7, 3\], expected \[N, 3\]"),
    "item shape": ([X[0, :2]], r"'image' has shape \[2\], expected \[N, 3\]"),
    "pixels": (X.astype(np.uint8), "'image' is uint8, expected float32: store it preprocessed"),
    "pixel items": (list(X.astype(np.uint8)), "'image' is uint8, expected float32"),
    "complex": (X.astype(np.complex64), "'image' is complex64, expected float32: convert"),
    "text": (np.full((7, 3), "a"), "'image' is <U1, expected float32"),
    "objects": (X.astype(object), "'image' is object, expected float32: .*pickle"),
    "nan": (bad(np.nan), "'image' holds NaN"),
    "infinity": (list(bad(-np.inf)), "'image' holds NaN, infinity"),
    "overflow": (bad(0).astype(np.float64) * 1e300, "values beyond float32"),
    "no samples": (X[:0], "no samples at all"),
    "no items": ([], "no samples at all"),
    "too few": (X[:1], "1 samples are less than one batch of 2"),
    "too few items": ([X[0]], "1 samples are less than one batch of 2"),
    "tuple": ([(X[0], 3)], "an item has 2 arrays, expected 1, one for each of 'image'"),
    "ragged": ([{"image": [[1.0], [1.0, 2.0]]}], "entry for input 'image' is no array"),
    "number": (3, "calibration data is int, expected a path"),
    "none": (None, "calibration data is NoneType, expected a path"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    source, message = REFUSED[name]
    with pytest.raises(CalibrationError, match=message) as caught:
        list(samples(source, ONE))
    assert "\n" not in str(caught.value)


REFUSED_FOR_TWO = {
    "missing": ({"ids": IDS}, r"no array for input 'mask'; .* 'ids', 'mask', found 'ids'"),
    "array": (IDS, r"no array for input 'ids', 'mask'"),
    "item": ([IDS], "an item is one array but the model's inputs are 'ids', 'mask'"),
    "counts": ({"ids": IDS, "mask": MASK[:4]}, "5 samples for input 'ids' but 4 for 'mask'"),
    "item counts": ([(IDS, MASK[:4])], "5 samples for input 'ids' but 4 for 'mask'"),
    "float ids": ({"ids": IDS + 0.5, "mask": MASK}, "'ids' is float64, expected int64"),
    "large ids": (
        {"ids": IDS.astype(np.uint64) + np.uint64(2**63), "mask": MASK},
        "'ids' holds values beyond int64",
    ),
}


@pytest.mark.parametrize("name", REFUSED_FOR_TWO)
def test_refused_for_two_inputs(name):
    source, message = REFUSED_FOR_TWO[name]
    with pytest.raises(CalibrationError, match=message):
        list(samples(source, TWO))


def test_damaged_and_foreign_files(tmp_path):
    np.savez(tmp_path / "good.npz", x=np.tile(X, (500, 1)))
    whole = (tmp_path / "good.npz").read_bytes()
    files = {
        "text.npz": b"hello",
        "empty.npz": b"",
        "pickle.npy": pickle.dumps([1, 2]),
        "cut.npz": whole[: len(whole) // 2],
        "rows.csv": b"1,2",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    np.save(tmp_path / "torn.npy", X)
    torn = (tmp_path / "torn.npy").read_bytes()
    (tmp_path / "torn.npy").write_bytes(torn[:22] + b" " * 106 + torn[128:])  # a dict never closed
    np.save(tmp_path / "short.npy", X)
    (tmp_path / "short.npy").write_bytes((tmp_path / "short.npy").read_bytes()[:-8])
    messages = {
        "text.npz": "no npz archive",
        "empty.npz": "no npz archive",
        "cut.npz": "no npz archive",
        "pickle.npy": "cannot read .*pickle.npy .*expected arrays stored with numpy.save",
        "torn.npy": "cannot read .*torn.npy .*expected arrays stored with numpy.save",
        "rows.csv": "unknown kind: expected .npz, .npy, a folder of images or script.py:function",
        "absent.npz": "no calibration data at",
    }
    for name, message in messages.items():
        with pytest.raises(FileError, match=message):
            samples(tmp_path / name, ONE)
    with pytest.raises(FileError, match="ends before its last sample"):
        list(samples(tmp_path / "short.npy", {"image": ("float32", (1, 3))}))
    np.save(tmp_path / "claim.npy", np.asfortranarray(np.ones((3, 3), np.float32)))
    claim = (tmp_path / "claim.npy").read_bytes()
    claim = claim.replace(b"(3, 3), }" + b" " * 12, b"(3000000000000, 3), }")
    (tmp_path / "claim.npy").write_bytes(claim)
    with pytest.raises(FileError, match=r"claim.npy is damaged"):
        list(samples(tmp_path / "claim.npy", {"image": ("float32", (1, 3))}))
    (tmp_path / "negative.npy").write_bytes(claim.replace(b"(3000000000000,", b"(-300000000000,"))
    (tmp_path / "unknown.npy").write_bytes(claim.replace(b"(3000000000000,", b"(-1           ,"))
    with pytest.raises(FileError, match=r"cannot read .*unknown.npy"):
        samples(tmp_path / "unknown.npy", {"image": ("float32", (1, 3))})
    with pytest.raises(FileError, match=r"cannot read .*negative.npy"):
        samples(tmp_path / "negative.npy", {"image": ("float32", (1, 3))})
    flipped = bytearray(whole)
    flipped[2000] ^= 255
    (tmp_path / "flipped.npz").write_bytes(flipped)
    with pytest.raises(FileError, match=r"flipped.npz is damaged \(Bad CRC"):
        list(samples(tmp_path / "flipped.npz", ONE))


def test_pickles_inside_archives_are_refused(tmp_path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "sprung",)

    np.savez(tmp_path / "p.npz", image=np.array([Trap()] * 4, object))
    with pytest.raises(CalibrationError, match=r"'image' is object, .*pickle, which is refused"):
        list(samples(tmp_path / "p.npz", ONE))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("source", [list(X), lambda: X])
def test_a_seed_needs_stored_data(source):
    with pytest.raises(UsageError, match="leave the seed out"):
        samples(source, ONE, options=SampleOptions(4, seed=1))


def test_a_seed_needs_one_batch_size():
    inputs = {"x": ("float32", (2, 3)), "mask": ("float32", (1, 2))}
    with pytest.raises(UsageError, match="one batch size"):
        samples({"x": X[:6], "mask": np.ones((3, 2))}, inputs, options=SampleOptions(seed=1))


def test_limits_that_make_no_batch():
    with pytest.raises(CalibrationError, match=r"1 samples asked for, less than .* batch of 2"):
        samples(X, ONE, options=SampleOptions(1))
    with pytest.raises(CalibrationError, match="0 samples asked for"):
        SampleOptions(0)


@pytest.mark.parametrize(
    ("inputs", "kind", "message"),
    [
        ({}, CalibrationError, "the model has no inputs"),
        ({"x": ("float32", (0, 3))}, CalibrationError, r"'x' has shape \[0, 3\]"),
        ({"x": ("float99", (1, 3))}, UnsupportedError, "'x' is float99"),
    ],
)
def test_inputs_that_take_no_data(inputs, kind, message):
    with pytest.raises(kind, match=message) as caught:
        samples(X, inputs)
    assert isinstance(caught.value, QcompilerError)
