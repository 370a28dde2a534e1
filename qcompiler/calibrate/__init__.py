"""Calibration: which ranges the values of a float model take on sample data.

`samples` or `synthetic` give feeds, `collect.collect` runs the model on them and keeps `Statistics`
of the values, and `Statistics.range` turns these into a clipping range by one of the methods.
"""

from qcompiler.calibrate.feeds import Feed
from qcompiler.calibrate.histogram import Histogram
from qcompiler.calibrate.images import ImageOptions
from qcompiler.calibrate.methods import (
    METHODS,
    Entropy,
    MeanSquaredError,
    MinMax,
    MovingAverage,
    Percentile,
)
from qcompiler.calibrate.sources import SampleOptions, Samples, samples
from qcompiler.calibrate.statistics import Method, Statistics
from qcompiler.calibrate.synthetic import SyntheticOptions, synthetic

__all__ = [
    "METHODS",
    "Entropy",
    "Feed",
    "Histogram",
    "ImageOptions",
    "MeanSquaredError",
    "Method",
    "MinMax",
    "MovingAverage",
    "Percentile",
    "SampleOptions",
    "Samples",
    "Statistics",
    "SyntheticOptions",
    "samples",
    "synthetic",
]
