# SPDX-License-Identifier: GPL-2.0-only
"""Histograms as text, and the lines of a heat map."""

from __future__ import annotations

import pytest
from latency_data import histogram

from wgtrace.outputs.histogram import duration, heat_line, heat_scale, text_histogram


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0ns"),
        (999, "999ns"),
        (1000, "1.00us"),
        (9_994, "9.99us"),
        (9_996, "10.0us"),
        (99_960, "100us"),
        (999_400, "999us"),
        (999_600, "1.00ms"),
        (59_900_000, "59.9ms"),
        (104_000_000_000, "104s"),
    ],
)
def test_three_figures(ns: int, text: str) -> None:
    """Durations have three figures and the unit that suits them."""
    assert duration(ns) == text


def test_a_histogram_looks_like_bccs() -> None:
    """Bounds, count and stars; the fullest bucket has forty. Long gaps are one line."""
    lines = list(text_histogram(histogram(0, *[1500] * 8, *[3000] * 4, 17000)))

    assert lines == [
        "       nsecs             : count     distribution",
        "         0 -> 0          : 1        |*****                                   |",
        "       ...",
        "      1024 -> 2047       : 8        |****************************************|",
        "      2048 -> 4095       : 4        |********************                    |",
        "      4096 -> 8191       : 0        |                                        |",
        "      8192 -> 16383      : 0        |                                        |",
        "     16384 -> 32767      : 1        |*****                                   |",
    ]


def test_the_longest_wait_fits_80_columns() -> None:
    """A packet may wait for a key for 100 seconds and more."""
    assert max(map(len, text_histogram(histogram(130_000_000_000)))) <= 80


def test_a_heat_map_has_a_column_for_each_bucket() -> None:
    """What is below or above goes to the ends; the fullest is darkest, a single packet can be seen."""
    line = heat_line(histogram(0, *[300] * 999, 1 << 20, 1 << 38))

    assert len(line) == 26
    assert (line[0], line[21 - 9], line[-1]) == ("@", ".", ".")
    assert line.count(" ") == 23
    assert heat_line(histogram()) == " " * 26


def test_the_scale_stands_above_its_columns() -> None:
    """Each mark begins at the column of the bucket that begins with it."""
    assert heat_scale() == "256ns   65.5us  16.8ms  4.29s"
    assert heat_line(histogram(1 << 8, 1 << 16, 1 << 24, 1 << 32)) == "@       @       @       @ "
