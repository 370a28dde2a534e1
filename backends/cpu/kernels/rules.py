"""The kernel table of CPUs: which ops have a kernel here."""

from __future__ import annotations

from .attention_rule import Attentions
from .depthwise_rule import Depthwise
from .elementwise import Requantized
from .entry import Entry
from .normalization_rule import Normalizations
from .product_rule import Products

CPU = (Depthwise(), Products(), Attentions(), Normalizations(), Entry(), Requantized())
"""The rules, in order of preference."""
