"""Memory and durations: what is read, and that it is written so that it reads back."""

import random
from datetime import timedelta

import pytest

from dask_site.site import format_memory, format_walltime, parse_memory, parse_walltime
from dask_site.sitefile.problems import Mistake

GIB = 2**30


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("240GiB", 240 * GIB),
        ("2 TiB", 2048 * GIB),
        ("256GB", 256 * 10**9),
        ("256gb", 256 * 10**9),
        ("1.5TiB", 1536 * GIB),
        ("500MiB", 500 * 2**20),
        ("1024B", 1024),
        (" 1kB ", 1000),
    ],
)
def test_memory_is_read(text, n_bytes):
    assert parse_memory(text) == n_bytes


@pytest.mark.parametrize(
    ("value", "why", "write"),
    [
        ("240", "'240' has no unit", "240GiB"),
        (240, "240 has no unit", "240GiB"),
        (1.5, "1.5 has no unit", "1.5GiB"),
        ("240G", "'240G' may mean GB (decimal) or GiB (binary)", "240GiB"),
        ("4x", "'4x' has no unit that is known", "4GiB"),
        ("240Gig", "'240Gig' has no unit that is known", "240GiB"),
        ("0GiB", "'0GiB' is not more than nothing", "240GiB"),
        ("-4GiB", "'-4GiB' is not more than nothing", "240GiB"),
        ("999999PiB", "'999999PiB' is more than any machine has", "240GiB"),
        ("lots", "'lots' is not an amount of memory", "240GiB"),
        ("", "'' is not an amount of memory", "240GiB"),
        (True, "true is not an amount of memory", "240GiB"),
        ([], "a list is not an amount of memory", "240GiB"),
    ],
)
def test_memory_is_refused(value, why, write):
    with pytest.raises(Mistake) as caught:
        parse_memory(value)
    assert (caught.value.why, caught.value.write) == (why, write)


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (240 * GIB, "240GiB"),
        (1536 * GIB, "1536GiB"),
        (2**41, "2TiB"),
        (256 * 10**9, "256GB"),
        (1024 * 1000, "1000KiB"),
        (123456789, "123456789B"),
        (0, "0B"),
    ],
)
def test_memory_is_written(n_bytes, text):
    assert format_memory(n_bytes) == text


def test_memory_reads_back_exactly():
    numbers = random.Random(1)
    for _ in range(2000):
        n_bytes = numbers.randrange(1, 2 ** numbers.randrange(1, 60)) * 10 ** numbers.randrange(4)
        n_bytes = min(n_bytes, 2**60)
        assert parse_memory(format_memory(n_bytes)) == n_bytes


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("4h", timedelta(hours=4)),
        ("90m", timedelta(minutes=90)),
        ("1d", timedelta(days=1)),
        ("1d12h", timedelta(hours=36)),
        ("1.5h", timedelta(minutes=90)),
        ("45s", timedelta(seconds=45)),
        ("12:00:00", timedelta(hours=12)),
        ("4:30:00", timedelta(hours=4, minutes=30)),
        ("72:00:00", timedelta(days=3)),
        ("1-12:00:00", timedelta(hours=36)),
    ],
)
def test_walltime_is_read(text, span):
    assert parse_walltime(text) == span


FORMS = 'write a walltime as in 4h, 90m, 1d, "12:00:00" or 1-12:00:00'


@pytest.mark.parametrize(
    ("value", "why", "mend"),
    [
        (
            43200,
            "43200 is a number: YAML reads an unquoted 12:00:00 as 43200; quote it",
            '"12:00:00"',
        ),
        (0, "0 is not a walltime", "4h"),
        (-3600, "-3600 is not a walltime", "4h"),
        (False, "false is not a walltime", "4h"),
        ({}, "a mapping is not a walltime", "4h"),
        ("0h", "'0h' is not longer than zero", "4h"),
        ("00:00:00", "'00:00:00' is not longer than zero", "4h"),
        ("-4h", "'-4h' is negative", "4h"),
        ("400d", "'400d' is longer than a year", "4h"),
        ("9000:00:00", "'9000:00:00' is longer than a year", "4h"),
        ("240", "'240' has no unit", "240h"),
        ("soon", "'soon' is not a walltime", FORMS),
        ("4 hours", "'4 hours' is not a walltime", FORMS),
        ("12:60:00", "'12:60:00' has a part that is out of range", FORMS),
        ("1-24:00:00", "'1-24:00:00' has a part that is out of range", FORMS),
        ("1:2:3:4", "'1:2:3:4' is not a walltime", FORMS),
        (
            "12:30",
            "'12:30' may mean hours and minutes or minutes and seconds",
            '"12:30:00"',
        ),
    ],
)
def test_walltime_is_refused(value, why, mend):
    with pytest.raises(Mistake) as caught:
        parse_walltime(value)
    assert (caught.value.why, caught.value.write or caught.value.do) == (why, mend)


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (timedelta(hours=4), "04:00:00"),
        (timedelta(minutes=1, seconds=5), "00:01:05"),
        (timedelta(days=1, hours=12), "1-12:00:00"),
        (timedelta(days=2), "2-00:00:00"),
    ],
)
def test_walltime_is_written_and_reads_back(span, text):
    assert format_walltime(span) == text
    assert parse_walltime(text) == span
