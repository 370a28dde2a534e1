"""The table at the end of a compilation."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from qcompiler.report.summary import Summary
from qcompiler.report.table import size, summary_table


def text(summary: Summary) -> str:
    stream = io.StringIO()
    Console(file=stream, width=120).print(summary_table(summary, "out/[m].so"))
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def summary(**changes) -> Summary:
    fields = {
        "operators_integer": 7,
        "operators_float": 0,
        "float_names": (),
        "macs_integer": 3_000_000,
        "macs": 4_000_000,
        "bytes_before": 4096,
        "bytes_after": 1000,
        "file_bytes": 3 << 20,
        "workspace_bytes": 5 << 10,
        "seconds": {"import": 0.125, "build": 2.0},
    }
    return Summary(**{**fields, **changes})


def test_table():
    assert text(summary()).splitlines() == [
        "operators  7 integer, 0 float",
        "MACs       75.0 % integer of 4.00 million",
        "constants  4.0 KiB → 1000 B",
        "library    3.0 MiB",
        "memory     5.0 KiB of values at the peak of a call",
        "time       import 0.12 s, build 2.00 s",
        "output     out/[m].so",
    ]


def test_ops_in_float_are_named_up_to_eight():
    names = tuple(f"relu (/n[{i}])" for i in range(10))
    found = text(summary(operators_float=10, float_names=names)).replace("\n", " ")
    assert "/n[7]" in found
    assert "/n[8]" not in found
    assert "and 2 more" in found


def test_nothing_to_say():
    found = text(summary(macs=0, macs_integer=0, file_bytes=0))
    assert "MACs       none" in found
    assert "library" not in found


@pytest.mark.parametrize(
    ("nbytes", "expected"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (5 << 30, "5.0 GiB"),
        (5 << 40, "5120.0 GiB"),
    ],
)
def test_size(nbytes, expected):
    assert size(nbytes) == expected


def test_gpus_are_named_where_there_is_code_for_them():
    assert "GPUs" not in text(summary())
    assert "GPUs       sm_80, sm_90: nothing is compiled" in text(summary(gpus=("sm_80", "sm_90")))
