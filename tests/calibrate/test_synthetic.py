"""Synthetic feeds: seeded, of the right kind, walked as often as needed."""

import numpy as np
import pytest

from qcompiler.calibrate import SyntheticOptions, synthetic
from qcompiler.errors import CalibrationError, UnsupportedError

INPUTS = {
    "x": ("float32", (4, 1000)),
    "half": ("float16", (2,)),
    "ids": ("int64", (3, 100)),
    "tiny": ("int8", (1000,)),
    "flag": ("bool", (50,)),
}


def test_shapes_dtypes_and_distributions():
    feeds = list(synthetic(INPUTS, options=SyntheticOptions(runs=3, integer_bound=500)))
    assert len(feeds) == 3
    for name, (dtype, shape) in INPUTS.items():
        assert {(f[name].dtype.name, f[name].shape) for f in feeds} == {(dtype, shape)}
    x = np.concatenate([f["x"] for f in feeds])
    assert abs(x.mean()) < 0.05
    assert abs(x.std() - 1) < 0.05
    ids = np.concatenate([f["ids"] for f in feeds])
    assert 0 <= ids.min() < 10
    assert 490 < ids.max() < 500
    assert feeds[0]["tiny"].min() >= 0
    assert feeds[0]["tiny"].max() > 120
    assert set(feeds[0]["flag"].tolist()) == {False, True}


def test_the_seed_decides():
    def drawn(seed):
        return [f["x"].tolist() for f in synthetic(INPUTS, options=SyntheticOptions(2, seed))]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    feeds = synthetic(INPUTS)
    assert [f["ids"].tolist() for f in feeds] == [f["ids"].tolist() for f in feeds]
    assert feeds.runs == len(list(feeds)) == 8
    assert max(f["ids"].max() for f in feeds) == 1  # an index into any table of two


def test_refuses_what_has_no_distribution():
    with pytest.raises(UnsupportedError, match="input 's' is <U1, expected one of float16"):
        synthetic({"s": ("<U1", (1,))})
    with pytest.raises(CalibrationError, match="no inputs"):
        synthetic({})
