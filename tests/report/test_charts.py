"""Charts: marks lie where values say, text is escaped, axes have round numbers, outliers do not flatten a line."""

from __future__ import annotations

import itertools
import math
import re
from xml.etree import ElementTree

import pytest

from fastgen.report import Bar, Series, bar_chart, line_chart, standalone
from fastgen.report.charts import MOST_POINTS, number, shorten, ticks, wave_chart

SVG = "{http://www.w3.org/2000/svg}"


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def texts(svg: str) -> list[str]:
    return [entry.text or "" for entry in parsed(svg).iter(f"{SVG}text")]


def points(svg: str) -> list[tuple[float, float]]:
    (line,) = parsed(svg).iter(f"{SVG}polyline")
    return [(float(a), float(b)) for a, b in (pair.split(",") for pair in line.attrib["points"].split())]


def grid(svg: str) -> dict[str, float]:
    """Heights of the value axis's ticks, by what is written there."""
    return {
        e.text or "": float(e.attrib["y"]) - 4 for e in parsed(svg).iter(f"{SVG}text") if e.get("text-anchor") == "end"
    }


def test_points_lie_where_the_axis_says() -> None:
    svg = line_chart([Series("loss", [0, 10, 20], [1.0, 3.0, 2.0])], "loss")
    heights = grid(svg)
    (_, one), (_, three), (_, two) = points(svg)
    assert (one, two, three) == pytest.approx((heights["1"], heights["2"], heights["3"]), abs=0.11)
    first, middle, last = (x for x, _ in points(svg))
    assert middle == pytest.approx((first + last) / 2, abs=0.11)
    assert "loss 2" in texts(svg) and "step" in texts(svg)


def test_values_over_decades_get_a_logarithmic_axis() -> None:
    svg = line_chart([Series("norm", [0, 1, 2], [0.01, 1.0, 100.0])], "norm")
    (_, low), (_, middle), (_, high) = points(svg)
    assert middle == pytest.approx((low + high) / 2, abs=0.11) and "step, logarithmic" in texts(svg)
    assert "logarithmic" not in " ".join(texts(line_chart([Series("a", [0, 1], [-1.0, 100.0])], "a")))
    with pytest.raises(ValueError, match="not positive; set log=False"):
        line_chart([Series("a", [0, 1], [0.0, 1.0])], "a", log=True)


def test_a_few_far_values_are_cut_and_said() -> None:
    values = [1 + 0.1 * math.sin(k) for k in range(200)]
    values[3], values[77] = 1e4, -500.0
    svg = line_chart([Series("loss", list(range(200)), values)], "loss")
    assert "step, 2 of 200 values beyond" in texts(svg)
    heights = [y for _, y in points(svg)]
    assert max(heights) - min(sorted(heights)[5:]) > 50  # the rest is not a flat line


def test_very_many_values_keep_their_extremes_and_what_is_not_finite_is_left_out() -> None:
    values = [1.0] * 5000
    values[1234], values[4321], values[7] = 2.0, 0.5, math.nan
    svg = line_chart([Series("loss", list(range(5000)), values)], "loss", log=True)
    drawn = points(svg)
    assert len(drawn) <= MOST_POINTS + 2
    heights = grid(svg)
    assert min(y for _, y in drawn) == pytest.approx(heights["2"], abs=0.11)
    assert max(y for _, y in drawn) == pytest.approx(heights["0.5"], abs=0.11)
    for empty in ([], [Series("a", [1], [math.inf])]):
        with pytest.raises(ValueError, match="must have a finite value; got none"):
            line_chart(empty, "a")


def test_labels_of_lines_that_end_together_do_not_overlap() -> None:
    svg = line_chart([Series(f"line {k}", [0, 1], [0.0, 1.0 + k / 1000]) for k in range(5)], "all")
    places = sorted(float(e.attrib["y"]) for e in parsed(svg).iter(f"{SVG}text") if (e.text or "").startswith("line "))
    assert len(places) == 5 and min(b - a for a, b in itertools.pairwise(places)) >= 13.9
    assert places[0] > 0 and places[-1] < 230


def test_points_have_whiskers_of_their_errors() -> None:
    svg = line_chart([Series("held-out", [0, 5], [1.0, 3.0], [0.5, 0.0], points=True)], "bits", log=False)
    heights, root = grid(svg), parsed(svg)
    whiskers = [e for e in root.iter(f"{SVG}line") if e.get("class") == "error s0"]
    assert len(list(root.iter(f"{SVG}circle"))) == len(whiskers) == 2
    length = abs(float(whiskers[0].attrib["y1"]) - float(whiskers[0].attrib["y2"]))
    # of 1 ± 0.5 the lower end lies beyond the axis, which begins 0.1 below the least value
    assert length == pytest.approx(0.6 / 2 * (heights["1"] - heights["3"]), abs=0.2)


def test_bars_begin_at_the_reference_on_both_sides() -> None:
    bars = [Bar("twice", 2.0, 1.8, 2.2, "a"), Bar("half", 0.5, None, None, "a"), Bar("same", 1.0, group="b")]
    svg = bar_chart(bars, "speed", log=True, reference=1.0)
    twice, half, same = (
        (float(e.attrib["x"]), float(e.attrib["width"]))
        for e in parsed(svg).iter(f"{SVG}rect")
        if "bar" in e.attrib["class"]
    )
    assert half[0] + half[1] == pytest.approx(twice[0], abs=0.2) and half[1] == pytest.approx(twice[1], abs=0.2)
    assert same == (pytest.approx(twice[0], abs=0.1), 1.0)
    assert [text for text in texts(svg) if text in "ab"] == ["a", "b"]
    with pytest.raises(ValueError, match="values that are not positive"):
        bar_chart([Bar("a", -1.0)], "speed", log=True)
    with pytest.raises(ValueError, match="must have finite values; got \\[nan\\]"):
        bar_chart([Bar("a", math.nan)], "speed")


def test_equal_values_and_single_points_are_drawn() -> None:
    for chart in (
        line_chart([Series("a", [0], [0.0])], "a"),
        line_chart([Series("a", [3, 3], [2.0, 2.0])], "a"),
        bar_chart([Bar("a", 0.0)], "a"),
        wave_chart([0.0], "a"),
        wave_chart([math.sin(k / 9) for k in range(9000)], "a", seconds=1.0),
    ):
        assert not re.search(r"nan|inf", chart) and parsed(chart).get("viewBox")


def test_text_is_escaped_and_a_file_stands_alone() -> None:
    nasty = "<script>\"&'"
    for svg in (line_chart([Series(nasty, [0, 1], [0, 1])], nasty), bar_chart([Bar(nasty, 1.0, group=nasty)], nasty)):
        assert "<script" not in svg and any(nasty[:5] in text for text in texts(svg))
        alone = parsed(standalone(svg))
        assert alone.get("width") and alone.get("height") and next(alone.iter(f"{SVG}style")).text


@pytest.mark.parametrize(
    ("low", "high", "log", "expected"),
    [
        (0.0, 10.0, False, [0, 2, 4, 6, 8, 10]),
        (-0.3, 0.3, False, [-0.2, 0, 0.2]),
        (1.0, 100.0, True, [1, 2, 5, 10, 20, 50, 100]),
        (0.001, 1000.0, True, [0.001, 0.01, 0.1, 1, 10, 100, 1000]),
        (1e-9, 1e9, True, [1e-9, 1e-5, 1e-1, 1e3, 1e7]),
        (1.1, 1.4, True, [1.1, 1.2, 1.3, 1.4]),
        (7.0, 7.0, False, [7]),
    ],
)
def test_ticks_are_round(low: float, high: float, log: bool, expected: list[float]) -> None:
    assert ticks(low, high, log) == pytest.approx(expected)


def test_numbers_are_short() -> None:
    values = [0.0, 0.125, -3.14159, 1234.5, 12345.0, 2.5e6, 3e-5, 1e20]
    assert [number(value) for value in values] == ["0", "0.125", "-3.142", "1234", "12.35k", "2.5M", "3e-5", "1e20"]
    assert shorten("abcdefghij", 40) == "abcde…" and shorten("abc", 40) == "abc"
