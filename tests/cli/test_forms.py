"""Which form softmax takes, from the command line to the graph."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), "exponentials("),
        (("--softmax", "shift"), "shiftmax("),
        (("--preset", "i-vit"), "shiftmax("),
        (("--preset", "i-vit", "--softmax", "log2"), "exponentials("),
    ],
)
def test_form_of_softmax(qcompile, tiny, options, expected):
    result = qcompile(tiny(op="Softmax"), "--stop-after", "integerize", *options)
    assert result.code == 0, result.err
    assert expected in result.out


def test_preset_and_configuration_exclude_each_other(refused, tiny, tmp_path):
    (tmp_path / "q.yaml").write_text("softmax: shift\n")
    refused(2, tiny(), "--preset", "i-vit", "--config", "q.yaml", words=("--preset", "--config"))
