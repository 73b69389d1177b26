"""Amounts of memory and durations: read from text, and written so that they read back the same."""

import re
from datetime import timedelta
from typing import Any

from dask_site.sitefile.problems import Mistake, show

_BINARY = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "PiB": 2**50}
_DECIMAL = {"kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "PB": 10**15}
_UNITS = {unit.lower(): size for unit, size in {"B": 1, **_BINARY, **_DECIMAL}.items()}
_MOST_MEMORY = 2**60
_LONGEST_WALLTIME = timedelta(days=366)

_MEMORY = re.compile(r"([+-]?\d{1,19}(?:\.\d{1,9})?)\s*([A-Za-z]*)", re.ASCII)
_CLOCK = re.compile(r"(?:(\d{1,4})-)?(\d{1,5}):(\d{1,2}):(\d{1,2})", re.ASCII)
_SPANS = re.compile(r"(?:\d{1,9}(?:\.\d{1,6})?\s*[dhms]\s*)+", re.ASCII)
_SPAN = re.compile(r"([\d.]+)\s*([dhms])", re.ASCII)
_HOURS_MINUTES = re.compile(r"(\d{1,4}):(\d{1,2})", re.ASCII)
_SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_WALLTIMES = 'as in 4h, 90m, 1d, "12:00:00" or 1-12:00:00'


def parse_memory(value: Any) -> int:
    """Return bytes from text such as ``240GiB`` (binary) or ``256GB`` (decimal).

    Raises
    ------
    Mistake
        If there is no unit, an ambiguous unit (``240G``), or nothing that could be memory.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise Mistake(f"{show(value)} is not an amount of memory", write="240GiB")
    match = _MEMORY.fullmatch(str(value).strip()) if not _is_huge(value) else None
    if match is None:
        raise Mistake(f"{show(value)} is not an amount of memory", write="240GiB")
    number, unit = match.groups()
    if not unit:
        raise Mistake(f"{show(value)} has no unit", write=f"{number.lstrip('+-')}GiB")
    return _memory_in_units(value, number, unit)


def _memory_in_units(value: Any, number: str, unit: str) -> int:
    size = _UNITS.get(unit.lower())
    if size is None:
        near = f"{unit[0].upper()}iB" if unit[0].upper() in "KMGTP" else "GiB"
        if unit.upper() in {"K", "M", "G", "T", "P"}:
            why = f"{show(value)} may mean {unit.upper()}B (decimal) or {near} (binary)"
        else:
            why = f"{show(value)} has no unit that is known"
        raise Mistake(why, write=f"{number.lstrip('+-')}{near}")
    amount = round(float(number) * size) if "." in number else int(number) * size
    if amount <= 0:
        raise Mistake(f"{show(value)} is not more than nothing", write="240GiB")
    if amount > _MOST_MEMORY:
        raise Mistake(f"{show(value)} is more than any machine has", write="240GiB")
    return amount


def _is_huge(value: Any) -> bool:
    return isinstance(value, int) and abs(value) >= 10**18


def format_memory(n_bytes: int) -> str:
    """Return bytes as text that `parse_memory` reads back exactly: ``240GiB``, ``1536MiB``.

    The binary prefix is left only where a decimal one is exact and shorter (``256GB``).
    """
    if n_bytes == 0:
        return "0B"
    forms = [f"{n_bytes}B"]
    for units in (_DECIMAL, _BINARY):
        forms += [f"{n_bytes // size}{u}" for u, size in units.items() if n_bytes % size == 0]
    forms.reverse()  # on a tie: the largest unit, and binary before decimal
    binary = next((f for f in forms if f[-2:] == "iB"), None)
    shortest = min(forms, key=len)
    return binary if binary and len(binary) <= len(shortest) + 2 else shortest


def parse_walltime(value: Any, longest: timedelta = _LONGEST_WALLTIME) -> timedelta:
    """Return a duration from ``4h``, ``90m``, ``1d12h``, ``HH:MM:SS`` or ``D-HH:MM:SS``.

    Raises
    ------
    Mistake
        If the text is not one of these, or not longer than zero. A number is refused: an unquoted
        12:00:00 reaches this function as 43200, and nobody can tell which was meant.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise Mistake(f"{show(value)} is not a walltime", write="4h")
    if not isinstance(value, str):
        raise _number_as_walltime(value)
    text = value.strip()
    if re.fullmatch(r"-[\d:.dhms ]+", text):
        raise Mistake(f"{show(value)} is negative", write="4h")
    span = _clock(value, text) if ":" in text else _spans(value, text, longest)
    if span <= timedelta(0):
        raise Mistake(f"{show(value)} is not longer than zero", write="4h")
    if span > longest:
        raise _too_long(value, longest)
    return span


def _too_long(value: str, longest: timedelta) -> Mistake:
    years = longest.days // 365
    return Mistake(
        f"{show(value)} is longer than {'a year' if years == 1 else f'{years} years'}", write="4h"
    )


def _number_as_walltime(value: float) -> Mistake:
    if not 0 < value <= _LONGEST_WALLTIME.total_seconds():
        return Mistake(f"{show(value)} is not a walltime", write="4h")
    meant = format_walltime(timedelta(seconds=int(value)))
    return Mistake(
        f"{show(value)} is a number: YAML reads an unquoted {meant} as {show(value)}; quote it",
        write=f'"{meant}"',
        unquoted=True,
    )


def _clock(value: str, text: str) -> timedelta:
    match = _CLOCK.fullmatch(text)
    if match is None:
        short = _HOURS_MINUTES.fullmatch(text)
        if short:
            why = f"{show(value)} may mean hours and minutes or minutes and seconds"
            raise Mistake(why, write=f'"{short[1].zfill(2)}:{short[2].zfill(2)}:00"')
        raise Mistake(f"{show(value)} is not a walltime", do=f"write a walltime {_WALLTIMES}")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    if minutes > 59 or seconds > 59 or (match[1] and hours > 23):
        why = f"{show(value)} has a part that is out of range"
        raise Mistake(why, do=f"write a walltime {_WALLTIMES}")
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)


def _spans(value: str, text: str, longest: timedelta) -> timedelta:
    if not _SPANS.fullmatch(text):
        if re.fullmatch(r"\d{1,9}", text, re.ASCII):
            raise Mistake(f"{show(value)} has no unit", write=f"{text}h")
        raise Mistake(f"{show(value)} is not a walltime", do=f"write a walltime {_WALLTIMES}")
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in _SPAN.findall(text))
    if seconds > longest.total_seconds():
        raise _too_long(value, longest)
    return timedelta(seconds=round(seconds))


def format_walltime(span: timedelta) -> str:
    """Return a duration as Slurm writes it: ``04:00:00``, over a day ``1-12:00:00``."""
    hours, rest = divmod(span.seconds, 3600)
    clock = f"{hours:02}:{rest // 60:02}:{rest % 60:02}"
    return f"{span.days}-{clock}" if span.days else clock
