"""`qcompile compare MODEL [LIB]`."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def compare(qcompile, digits):
    """Compare the digits CNN on ten samples."""

    def run(*arguments: object):
        fixed = ("--data", digits / "test.npz", "--data-samples", 10)
        return qcompile("compare", digits / "cnn.onnx", *arguments, *fixed)

    return run


def test_values_and_outputs(compare, digits, library):
    result = compare(library, "--calib", digits / "calib.npz", "--mode", "both")
    assert result.code == 0, result.err
    heading, *lines = result.out.splitlines()
    words = ["value", "op", "codes", "SQNR dB", "saturated", "alone dB", "output dB", "agreement"]
    assert re.split(r"  +", heading.strip()) == words
    (stem,) = (line for line in lines if re.match(r"stem_relu\S* +relu +int16 ", line))
    assert len(stem.split()) == 10  # and two per cent signs
    assert re.search(r"^output logits +\d+\.\d dB, cosine 0\.9\d+, ", result.out, re.M)
    flat = " ".join(result.out.split())
    assert "top-1 agreement 100.0 %" in flat
    assert "; the bits of all 100 elements are those of the integer graph" in flat
    assert re.search(r"^runs +10 *$", result.out, re.M)
    assert result.files == frozenset()


def test_json_and_html(compare, digits, tmp_path):
    calib = ("--calib", digits / "calib.npz", "-q")
    result = compare(*calib, "--mode", "both", "--json", "a.json", "--html", "a.html")
    assert (result.code, result.out, result.err) == (0, "", "")
    assert result.files == {"a.json", "a.html"}
    facts = json.loads((tmp_path / "a.json").read_text())
    assert (facts["model"], facts["mode"], facts["runs"]) == ("main_graph", "both", 10)
    stem = [row for row in facts["rows"] if row["name"] == "stem_relu/Relu"]
    assert [row["storage"] for row in stem] == ["int16", "uint8"]
    assert all(row["cumulative"]["sqnr"] > 20 for row in facts["rows"])
    assert facts["outputs"][0]["deviation"]["agreement"] == 1.0
    page = Page((tmp_path / "a.html").read_text())
    assert page.rows == 1 + len(facts["rows"])
    assert page.marked == 3
    assert page.resources == []
    assert "res2_relu/Relu" in page.text


class Page(HTMLParser):
    """Rows, marked rows, references to anything outside, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows = self.marked = 0
        self.resources: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.rows += tag == "tr"
        self.marked += ("class", "worst") in attrs
        self.resources += [v for k, v in attrs if k in ("src", "href")]
        self.resources += [tag] * (tag in ("script", "link", "iframe"))

    def handle_data(self, data):
        self.text += data
        self.resources += re.findall(r"url\(|@import|https?:", data)


def test_worst_rows_first_and_only_so_many(compare, digits, tmp_path):
    (tmp_path / "bad.yaml").write_text(
        "rules: [{pattern: 'res1_relu/*', activations: uint2}]\n", "utf-8"
    )
    arguments = ("--calib", digits / "calib.npz", "--config", "bad.yaml", "--mode", "isolated")
    result = compare(*arguments, "--sort", "sqnr", "--top", 2, "--json", "a.json")
    assert result.code == 0, result.err
    assert "2 of 1" in result.out
    first, second = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert (first["name"], first["storage"]) == ("res1_relu/Relu", "uint2")
    effects = [r["isolated"]["outputs"][0]["deviation"]["sqnr"] for r in (first, second)]
    assert effects[0] < effects[1] - 10
    assert first["cumulative"] is None
    assert result.out.splitlines()[1].startswith("res1_relu/Relu")


def test_names_in_order(compare, digits, tmp_path):
    arguments = ("--calib", digits / "calib.npz", "--sort", "name", "--json", "a.json", "-q")
    assert compare(*arguments).code == 0
    names = [row["name"] for row in json.loads((tmp_path / "a.json").read_text())["rows"]]
    assert names == sorted(names)
    assert len(names) > 8


def test_library_alone(compare, library):
    result = compare(library)
    assert result.code == 0, result.err
    assert result.out.startswith("library, logits")
    assert "integer graph" not in result.out
    assert "calibrat" not in result.err


def test_library_of_another_calibration_and_model(compare, library, digits, qcompile, tmp_path):
    np.savez(tmp_path / "few.npz", x=np.load(digits / "calib.npz")["x"][:2])
    result = compare(library, "--calib", "few.npz")
    assert re.search(r"\d+ of 100 elements differ", " ".join(result.out.split()))
    assert "warning" not in result.err
    data = ("--data", digits / "test.npz", "--data-samples", 2)
    result = qcompile("compare", digits / "vit.onnx", library, *data)
    assert result.code == 0
    assert "warning: " in result.err
    assert "compiled from another file than" in result.err


def test_folder_of_images(qcompile, tiny, tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for i in range(3):
        pixels = rng.integers(0, 256, (4, 4, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
    model = tiny(shape=(1, 3, 4, 4), weight=rng.standard_normal((4, 3)).astype(np.float32))
    np.savez(tmp_path / "calib.npz", x=rng.random((4, 3, 4, 4), np.float32))
    data = ("--calib", "calib.npz", "--data", "images")
    plain = qcompile("compare", model, *data)
    assert plain.code == 0, plain.err
    assert re.search(r"^runs +3 *$", plain.out, re.M)
    other = qcompile("compare", model, *data, "--std", "0.1")
    assert other.code == 0, other.err
    assert other.out != plain.out
    turned = qcompile("compare", model, "--calib", "images", "--data", "calib.npz", "--std", "0.1")
    assert turned.code == 0, turned.err
    assert re.search(r"^runs +4 *$", turned.out, re.M)


def test_refusals(refused, digits, tiny, samples):
    model, data = tiny(), samples()
    base = ("compare", model, "--data", data)
    refused(2, "compare", model, words=("--data", "test.npz"))
    refused(2, *base, "--mean", "0.5", words=("--mean", "folder of images"))
    refused(2, *base, "--disable-pass", "insert-qdq", words=("insert-qdq", "no such pass"))
    refused(3, "compare", "gone.onnx", "--data", data, words=("gone.onnx",))
    refused(3, *base, data, words=("calib.npz", "not a library"))
    refused(3, "compare", model, "--data", "gone.npz", words=("gone.npz", "existing"))
    refused(7, "compare", model, "--data", digits / "test.npz", words=("test.npz", "'x'"))
    refused(9, *base, "--json", model, words=("tiny.onnx", "is what is read"))
    refused(9, *base, "--html", "gone/a.html", words=("gone/a.html",))
    refused(9, *base, "--json", "a", "--html", "a", words=("--json", "--html", "two files"))


def test_library_of_other_outputs(qcompile, library, tiny, tmp_path):
    model = tiny(shape=(1, 1, 8, 8), weight=np.ones((8, 3), np.float32))
    np.savez(tmp_path / "x.npz", x=np.zeros((1, 1, 8, 8), np.float32))
    result = qcompile("compare", model, library, "--data", "x.npz")
    assert (result.code, result.out) == (2, "")
    warning, error = result.err.splitlines()
    assert "compiled from another file" in warning
    assert "library: no output 'y' of float32[1x1x8x3]: compile it from this model" in error


@pytest.mark.parametrize("option", ["--mode", "--sort"])
def test_unknown_words(qcompile, tiny, samples, option):
    result = qcompile("compare", tiny(), "--data", samples(), option, "best")
    assert result.code == 2
    assert option in result.err
