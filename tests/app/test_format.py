import math
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenlayer.app.format import cell, change, metric_rows, number, visible
from tokenlayer.app.report.command import command_line
from tokenlayer.app.toml import toml_text
from tokenlayer.core.report import Metric, Report


@pytest.mark.parametrize(
    ("value", "unit", "name", "text"),
    [
        (49152.0, "", "rows", "49 152"),
        (1.0, "", "bits per byte", "1.0000"),
        (1.23456, "bits", "pseudo bits per byte", "1.2346"),
        (4.0, "bytes", "bytes per token", "4.000"),
        (0.9831, "share", "", "98.3 %"),
        (12.34, "s", "seconds", "12.3 s"),
        (59.96, "s", "seconds", "60.0 s"),
        (125.0, "seconds", "", "2 min 5 s"),
        (7261.0, "s", "", "2 h 1 min"),
        (1412.0, "MB", "peak memory", "1 412 MB"),
        (812.34, "tokens/s", "tokens per second", "812.3"),
        (0.00123, "", "", "0.00123"),
        (math.nan, "share", "", "–"),
        (math.inf, "s", "", "–"),
    ],
)
def test_number(value, unit, name, text):
    assert number(value, unit, name) == text


@pytest.mark.parametrize(
    ("metric", "text"),
    [
        (Metric("bits per byte", 1.9027, "bits", baseline=1.4312), "+0.4715 (+32.9 %)"),
        (Metric("bits per byte", 0.69, "bits", baseline=0.71), "−0.0200 (−2.8 %)"),
        (Metric("rows", 32000.0, "rows", baseline=49152.0), "−17 152 (−34.9 %)"),
        (Metric("agreement", 0.81, "share", baseline=0.5), "+31.0 points"),
        (Metric("rows", 3.0, "rows", baseline=0.0), "+3"),
        (Metric("rows", 3.0), ""),
        (Metric("rows", 3.0, baseline=3.0), "same"),
        (Metric("bits per byte", 5.2364, baseline=5.2369), "−0.0005 (+0.0 %)"),
        (Metric("rows", math.nan, baseline=1.0), ""),
        (Metric("rows", 1.0, baseline=math.inf), ""),
    ],
)
def test_change(metric, text):
    assert change(metric) == text


@pytest.mark.parametrize(
    ("value", "column", "text"),
    [
        (31022, "id", "31022"),
        (31022, "source id", "31022"),
        (31022, "rows", "31 022"),
        (0.25, "share", "25.0 %"),
        (True, "tied", "yes"),
        (None, "", "–"),
        ("", "", ""),
        ("  ", "", "␣␣"),
        (" a b ", "", "␣a b␣"),
        ([" a", "b"], "", "␣a b"),
        ({"window": 512, "stride": 256}, "", "window 512, stride 256"),
    ],
)
def test_cell(value, column, text):
    assert cell(value, column) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\tc", "a⏎b⇥c"),
        ("\x1b[31m", "\\x1b[31m"),
        ("\u202eabc", "\\u202eabc"),
        ("\ud800", "\\ud800"),
        ("ığdır 漢字 👩‍👩‍👧", "ığdır 漢字 👩‍👩‍👧"),
        ("می‌خواهم", "می‌خواهم"),
    ],
)
def test_visible(text, shown):
    assert visible(text) == shown


@given(st.text())
def test_visible_text_fits_one_line_and_any_file(text):
    shown = visible(text)
    assert shown.encode("utf-8").decode("utf-8") == shown
    assert len(shown.splitlines()) <= 1
    assert "\x1b" not in shown


def test_metrics_of_one_name_stand_together():
    report = Report("x")
    for name, source in (("a", "1"), ("b", "1"), ("a", "2")):
        report.add(name, 1.0, source=source)
    assert [row[:2] for row in metric_rows(report)] == [("a", "1"), ("a", "2"), ("b", "1")]


def test_a_unit_is_named_where_neither_number_nor_name_says_it():
    report = Report("x")
    report.add("loss", 1.5, "nats")
    report.add("peak memory", 3.0, "MB")
    report.add("tokens per second", 3.0, "tokens/s")
    assert [row[0] for row in metric_rows(report)] == ["loss [nats]", "peak memory", "tokens per second"]


PLAIN = st.one_of(st.booleans(), st.integers(-(2**62), 2**62), st.floats(allow_nan=False), st.text())
TABLES = st.dictionaries(st.text(), PLAIN, max_size=2)


@given(st.dictionaries(st.text(), st.one_of(PLAIN, st.lists(PLAIN, max_size=3), TABLES), max_size=4))
def test_toml_reads_back(values):
    values = {k: v for k, v in values.items() if _utf8(k) and _utf8(v)}
    assert tomllib.loads(toml_text(values)) == values


def _utf8(value):
    return not any("\ud800" <= c <= "\udfff" for c in str(value))


def test_toml_leaves_out_none_and_refuses_the_rest():
    assert toml_text({"a": None, "b": (1, 2)}) == "b = [1, 2]\n"
    with pytest.raises(TypeError, match="set has no place in a flat TOML file"):
        toml_text({"a": {1}})


def test_command_line_is_what_one_would_type():
    flags = {
        "out": "my out",
        "eval": ["a:tr", "b"],
        "eval_bytes": 5,
        "dtype": None,
        "force": False,
        "dry_run": True,
        "seed": 0,
    }
    line = command_line("swap", ["M", "T"], flags)
    assert line == "tokenlayer swap M T --out 'my out' --eval a:tr --eval b --eval-bytes 5 --dry-run --seed 0"
