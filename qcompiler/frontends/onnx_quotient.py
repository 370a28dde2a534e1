"""Importers of integer arithmetic: quotients, remainders and bits."""

from __future__ import annotations

import numpy as np

from qcompiler.frontends.onnx_logic import either
from qcompiler.frontends.onnx_node import Node, importer
from qcompiler.graph import Constant, Op
from qcompiler.ops import (
    Abs,
    Add,
    And,
    BitwiseAnd,
    Cast,
    Div,
    Equal,
    FloorDiv,
    Gather,
    GreaterEqual,
    Maximum,
    Mul,
    Not,
    Remainder,
    Select,
    ShiftRight,
    Sub,
    scalar,
)


def opposite(x: Op) -> Op:
    """−x."""
    return Sub(scalar(0, x.type.dtype), x)


def absolute(x: Op) -> Op:
    """|x| of numbers of any kind."""
    if x.type.is_float:
        return Abs(x)
    return x if x.type.dtype.startswith("u") else Maximum(x, opposite(x))


def _negative(x: Op) -> Op:
    return Not(GreaterEqual(x, scalar(0, x.type.dtype)))


def _divisor(x: Op) -> Op:
    """|x|, and 1 instead of 0: a division by zero would end the process."""
    return Maximum(absolute(x), scalar(1, x.type.dtype))


def quotient(a: Op, b: Op) -> Op:
    """a / b, of integers rounded towards 0."""
    if a.type.is_float:
        return Div(a, b)
    found = FloorDiv(absolute(a), _divisor(b))
    if a.type.dtype.startswith("u"):
        return found
    return Select(unlike(_negative(a), _negative(b)), opposite(found), found)


def unlike(a: Op, b: Op) -> Op:
    """Whether one of two bools holds, and not the other."""
    return And(either(a, b), Not(And(a, b)))


@importer("Div", since=7)
def divide(node: Node) -> Op:
    """a / b."""
    return quotient(node.x, node.operand(1))


@importer("Mod", since=10)
def modulo(node: Node) -> Op:
    """a − b·q: with q = floor(a / b) of integers, or trunc(a / b) where `fmod` asks for it."""
    a, b = node.x, node.operand(1)
    truncated = bool(node.integer("fmod"))
    if a.type.is_float:
        rest = Remainder(a, b)
        zero = scalar(0, a.type.dtype)
        differs = And(Not(Equal(rest, zero)), unlike(_negative(rest), _negative(b)))
        return rest if truncated else Select(differs, Add(rest, b), rest)
    return Sub(a, Mul(quotient(a, b), b)) if truncated else floor_modulo(a, b)


def floor_modulo(a: Op, b: Op) -> Op:
    """a − b·floor(a / b) of integers."""
    divisor = _divisor(b)
    if a.type.dtype.startswith("u") or (isinstance(b, Constant) and (b.array > 0).all()):
        return _rest(a, divisor)
    negative = _negative(b)
    found = _rest(Select(negative, opposite(a), a), divisor)
    return Select(negative, opposite(found), found)


def _rest(a: Op, b: Op) -> Op:
    """a − b·floor(a / b) for b > 0."""
    return Sub(a, Mul(FloorDiv(a, b), b))


@importer("BitShift", since=11)
def bit_shift(node: Node) -> Op:
    """Integers times or by a power of two; bits beyond the type, or by less than none, are lost."""
    a, b = node.x, node.operand(1)
    dtype = a.type.dtype
    bits = np.iinfo(dtype).bits
    if bits == 64:
        raise node.unsupported(f"{dtype}")
    wide, most = Cast(a, "int64"), scalar(bits, "int64")
    places: Op = Cast(b, "int64")
    inside = And(GreaterEqual(places, scalar(0, "int64")), GreaterEqual(most, places))
    places = Select(inside, places, most)
    if (direction := node.text("direction")) == "RIGHT":
        return Cast(ShiftRight(wide, places), dtype)
    if direction != "LEFT":
        raise node.broken(f"direction: expected LEFT or RIGHT, found {direction!r}")
    powers = Constant(np.array([1 << i for i in range(bits)] + [0], np.int64))
    shifted = BitwiseAnd(Mul(wide, Gather(powers, places)), scalar((1 << bits) - 1, "int64"))
    return Cast(shifted, dtype)


def _complement(x: Op) -> Op:
    dtype = x.type.dtype
    every = np.iinfo(dtype).max if dtype.startswith("u") else -1
    return Sub(scalar(every, dtype), x)


def _bitwise_or(a: Op, b: Op) -> Op:
    return _complement(BitwiseAnd(_complement(a), _complement(b)))


@importer("BitwiseAnd", since=18)
def bitwise_and(node: Node) -> Op:
    """The bits of both."""
    return BitwiseAnd(node.x, node.operand(1))


@importer("BitwiseOr", since=18)
def bitwise_or(node: Node) -> Op:
    """The bits of either."""
    return _bitwise_or(node.x, node.operand(1))


@importer("BitwiseXor", since=18)
def bitwise_xor(node: Node) -> Op:
    """The bits of one and not the other: those of either without those of both."""
    a, b = node.x, node.operand(1)
    return Sub(_bitwise_or(a, b), BitwiseAnd(a, b))


@importer("BitwiseNot", since=18)
def bitwise_not(node: Node) -> Op:
    """The opposite bits."""
    return _complement(node.x)


def integer_power(x: Op, exponent: int) -> Op:
    """x^n of integers for n ≥ 0, by squaring."""
    result: Op | None = None
    while exponent:
        if exponent & 1:
            result = x if result is None else Mul(result, x)
        exponent >>= 1
        if exponent:
            x = Mul(x, x)
    return Constant(np.ones(x.type.shape, x.type.dtype)) if result is None else result
