"""Kernels for NVIDIA GPUs: integer tensor cores and exact integer arithmetic."""

from .build import build_product, pack_product
from .plan import TILES, Plan, Tile, make_plan

__all__ = ["TILES", "Plan", "Tile", "build_product", "make_plan", "pack_product"]
