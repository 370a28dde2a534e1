"""Passes over the IR, one per file; `DEFAULT` is the order in which they run."""

if __name__ != "qcompiler.passes":
    raise ImportError("import qcompiler.passes, not passes: the folder installs under that name")

from importlib.metadata import entry_points

from qcompiler.passes.add_noise import AddNoise
from qcompiler.passes.base import (
    Instrument,
    Pass,
    PassManager,
    RewritePass,
    Verify,
    parse_pass,
    place_of,
    without,
)
from qcompiler.passes.canonicalize import Canonicalize
from qcompiler.passes.channels_last import ChannelsLast
from qcompiler.passes.collapse_unary import CollapseUnary
from qcompiler.passes.equalize_cross_layer import EqualizeCrossLayer
from qcompiler.passes.fold_batch_norm import FoldBatchNorm
from qcompiler.passes.fuse import Fuse
from qcompiler.passes.fuse_attention import FuseAttention
from qcompiler.passes.hoist_slice import HoistSlice
from qcompiler.passes.insert_qdq import InsertQdq
from qcompiler.passes.integerize import Integerize
from qcompiler.passes.migrate_scales import MigrateScales
from qcompiler.passes.quantize_states import QuantizeStates
from qcompiler.passes.recognize_mask import RecognizeMask
from qcompiler.passes.recognize_normalization import RecognizeNormalization
from qcompiler.passes.reparameterize_scales import ReparameterizeScales
from qcompiler.passes.round_weights import RoundWeights
from qcompiler.passes.split_channels import SplitChannels
from qcompiler.passes.store_states import StoreStates

DEFAULT: tuple[Pass, ...] = (
    Canonicalize(),
    FoldBatchNorm(),
    HoistSlice(),  # behind the folding of biases into products
    RecognizeNormalization(),  # as long as roots and quotients stand apart
    RecognizeMask(),
    EqualizeCrossLayer(),
    CollapseUnary(),
    ReparameterizeScales(),
    SplitChannels(),
    QuantizeStates(),
    InsertQdq(),
    RoundWeights("nearest"),  # unless the configuration says otherwise
    Integerize(),
    StoreStates(),
)
"""From a real graph to an integer one."""

LOWERING: tuple[Pass, ...] = (ChannelsLast(), FuseAttention(), Fuse())
"""From an integer graph to kernels."""

OPTIONAL: tuple[Pass, ...] = (MigrateScales(), AddNoise())
"""For `--passes`, in front of insert-qdq and of integerize: no gain on the models measured."""

BUILT_IN: tuple[type[Pass], ...] = tuple(type(p) for p in (*DEFAULT, *OPTIONAL, *LOWERING))


def known_passes() -> tuple[type[Pass], ...]:
    """All passes: built in, and from the entry points `qcompiler.passes` of other packages."""
    return (*BUILT_IN, *(point.load() for point in entry_points(group="qcompiler.passes")))


__all__ = [
    "BUILT_IN",
    "DEFAULT",
    "LOWERING",
    "Canonicalize",
    "ChannelsLast",
    "CollapseUnary",
    "EqualizeCrossLayer",
    "FoldBatchNorm",
    "Fuse",
    "FuseAttention",
    "HoistSlice",
    "InsertQdq",
    "Instrument",
    "Integerize",
    "MigrateScales",
    "Pass",
    "PassManager",
    "QuantizeStates",
    "RecognizeMask",
    "RecognizeNormalization",
    "ReparameterizeScales",
    "RewritePass",
    "RoundWeights",
    "SplitChannels",
    "StoreStates",
    "Verify",
    "known_passes",
    "parse_pass",
    "place_of",
    "without",
]
