"""The kinds of values in a site file: each says what is wrong with a value and what to write."""

import re
from collections.abc import Callable
from datetime import timedelta
from ipaddress import ip_network
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema
from pydantic_core import PydanticCustomError

from dask_site.sitefile.problems import Mistake, nearest, show
from dask_site.sitefile.units import (
    format_memory,
    format_walltime,
    parse_memory,
    parse_walltime,
)

T = TypeVar("T")

_WORD = r"[A-Za-z0-9_][A-Za-z0-9_.,:@+=/-]*"
_CONSTRAINT = r"[A-Za-z0-9_\[(][A-Za-z0-9_.,:@+=/&|*()\[\]-]*"
_VARIABLE = r"\$(?:[A-Za-z_][A-Za-z0-9_]*|\{[A-Za-z_][A-Za-z0-9_]*\})"
_PATH = rf"(?:/|~|{_VARIABLE})(?:[A-Za-z0-9_./~@%+=,:-]|{_VARIABLE})*"
_PRINCIPAL = r"@?[A-Za-z0-9_][A-Za-z0-9_.-]*"
_URL = re.compile(
    r"postgresql(\+[a-z0-9]+)?://([^\s:@/]*(?P<password>:[^\s@/]*)?@)?[^\s@]*/[^\s@]+"
)
_PREFIX = re.compile(r"#(?:SBATCH|PBS|BSUB|OAR|\$)\s*")
_DOMAIN = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+"
_HTTPS = re.compile(r"https://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~/%-]*)?")
_HEADER = r"[A-Za-z][A-Za-z0-9-]{1,60}"
# Which have a meaning of their own on the way.
_OUR_HEADERS = {"host", "connection", "cookie", "origin", "authorization", "x-dask-portal"}
_LONGEST_DOMAIN = 200  # of 253: the name of a cluster goes before it
_LONGEST_NAME = 100
_LONGEST_TOKEN = 255


def _told(check: Callable[[Any], T]) -> BeforeValidator:
    """Make a check that raises `Mistake` into a pydantic validator that carries all of it."""

    def validate(value: Any) -> T:
        try:
            return check(value)
        except Mistake as mistake:
            raise PydanticCustomError("mistake", "{why}", vars(mistake)) from None

    return BeforeValidator(validate)


def text(value: Any) -> str:
    """Return text; anything that YAML made of an unquoted word or number is refused."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        raise Mistake(
            f"{show(value)} is a boolean, not text", do="write it in quotes", unquoted=True
        )
    if isinstance(value, int | float):
        why = f"{show(value)} is a number, not text"
        raise Mistake(why, write=f'"{show(value)}"', unquoted=True)
    raise Mistake(f"{show(value)} is not text", do="write text")


def single_line(value: Any) -> str:
    """Return text that is one printable line."""
    line = text(value)
    if not line.strip():
        raise Mistake("is empty", do="write text, or remove the key")
    if not line.isprintable():
        why = f"{show(line)} has a line break or another control character"
        raise Mistake(why, do="write printable text on one line")
    if len(line) > _LONGEST_NAME:
        why = f"{show(line)} is longer than {_LONGEST_NAME} characters"
        raise Mistake(why, do="write a shorter text")
    return line


def _one_of_shell(pattern: str, allowed: str) -> Callable[[Any], str]:
    whole = re.compile(pattern)

    def check(value: Any) -> str:
        word = text(value)
        if not word:
            raise Mistake("is empty", do="write a name, or remove the key")
        if len(word) > _LONGEST_TOKEN:
            why = f"{show(word)} is longer than {_LONGEST_TOKEN} characters"
            raise Mistake(why, do="write the name that the resource manager knows")
        if not whole.fullmatch(word):
            bad = next((c for c in word if not whole.fullmatch("a" + c)), word[0])
            where = "starts with" if whole.fullmatch("a" + word) else "has"
            why = f"{show(word)} {where} {show(bad)}, which a job script can't hold"
            raise Mistake(why, do=f"use letters, digits and {allowed}")
        return word

    return check


def folder(value: Any) -> str:
    """Return a folder: absolute, or from the home folder or a variable; nothing to quote in it."""
    path = text(value)
    if not path.startswith(("/", "~", "$")):
        why = f"{show(path)} is not an absolute path"
        raise Mistake(why, do="start it with /, ~ or a variable such as $TMPDIR")
    if not re.fullmatch(_PATH, path) or len(path) > _LONGEST_TOKEN:
        why = f"{show(path)} is a path that a job script would have to quote"
        raise Mistake(why, do="use letters, digits and . _ - / @ % + = , : and $VARIABLE")
    return path


def shell_line(value: Any) -> str:
    """Return one line of a job script."""
    line = text(value)
    if not line.replace("\t", " ").isprintable():
        why = f"{show(line)} has a line break or another control character"
        raise Mistake(why, do="write one list item per line")
    return line


def directive(value: Any) -> str:
    """Return one line for the resource manager, without its prefix."""
    line = shell_line(value)
    if not line.strip():
        raise Mistake("is empty", do="remove the item")
    prefix = _PREFIX.match(line.lstrip())
    if prefix:
        why = f"{show(line)} has the prefix {prefix[0].strip()}, which is added for you"
        raise Mistake(why, write=quoted(line.lstrip()[prefix.end() :]))
    return line


def prose(value: Any) -> str:
    """Return text for people, which may run over several lines."""
    words = text(value)
    if not words.replace("\n", " ").replace("\t", " ").isprintable():
        why = f"{show(words)} has a control character"
        raise Mistake(why, do="write printable text")
    return words


def quoted(line: str) -> str:
    """Return text in the quotes of YAML, where it is printable."""
    return '"' + line.replace("\\", "\\\\").replace('"', '\\"') + '"'


def flag(value: Any) -> bool:
    """Return true or false."""
    if isinstance(value, bool):
        return value
    meant = str(value).lower() if isinstance(value, str | int) and len(show(value)) < 9 else ""
    mend = "true" if meant in {"yes", "on", "1", "true", "y"} else "false"
    raise Mistake(f"{show(value)} is neither true nor false", write=mend)


def whole(least: int, most: int = 2**31) -> BeforeValidator:
    """Return a validator for whole numbers from `least` to `most`."""

    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            write = _whole_meant(value)
            do = "" if write else f"write a whole number that is at least {least}"
            raise Mistake(f"{show(value)} is not a whole number", write=write, do=do)
        if value < least:
            raise Mistake(f"{show(value)} is less than {least}", write=str(least))
        if value > most:
            raise Mistake(f"{show(value)} is more than {most}", write=str(most))
        return value

    return _told(check)


def _whole_meant(value: Any) -> str:
    digits = value.strip() if isinstance(value, str) else ""
    if re.fullmatch(r"\d{1,9}", digits, re.ASCII):
        return str(int(digits))
    if isinstance(value, float) and value.is_integer() and 0 <= value < 10**9:
        return str(int(value))
    return ""


def price(value: Any) -> float:
    """Return an amount of money per hour: a number from 0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Mistake(f"{show(value)} is not a number", write="0.01")
    if not 0 <= value < 10**12:
        raise Mistake(f"{show(value)} is not a price", write="0.01")
    return float(value)


def port(value: Any) -> int:
    """Return a port that an ordinary user may listen on; 0 stands for any free one."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise Mistake(f"{show(value)} is not a port", write="0")
    if value != 0 and not 1024 <= value <= 65535:
        why = f"{show(value)} is not a port that users may listen on (1024 to 65535, or 0)"
        raise Mistake(why, write="0")
    return value


def age(value: Any) -> timedelta:
    """Return for how long something is kept."""
    return parse_walltime(value, longest=timedelta(days=36525))


def network(value: Any) -> str:
    """Return an address or a network."""
    named = text(value)
    try:
        ip_network(named, strict=False)
    except ValueError:
        why = f"{show(named)} is neither an address nor a network"
        raise Mistake(why, do="write 10.1.0.5 or 10.2.0.0/16") from None
    return named


def domain(value: Any) -> str:
    """Return a name of the DNS, in lower case."""
    name = text(value)
    if not re.fullmatch(_DOMAIN, name) or len(name) > _LONGEST_DOMAIN:
        why = f"{show(name)} is no name that browsers can look up"
        raise Mistake(why, do="write a name in lower case, without https:// and port")
    return name


def https_url(value: Any) -> str:
    """Return an address that is called with TLS."""
    given = text(value)
    if not _HTTPS.fullmatch(given):
        why = f"{show(given)} is no address that begins with https://"
        raise Mistake(why, write="https://sso.example.org/realms/hpc")
    return given


def header(value: Any) -> str:
    """Return the name of a header of HTTP, which none of ours has."""
    given = text(value)
    if not re.fullmatch(_HEADER, given) or given.lower() in _OUR_HEADERS:
        why = f"{show(given)} can't name the header with the user's name"
        raise Mistake(why, write="X-Remote-User")
    return given


def store_url(value: Any) -> str:
    """Return where the history is kept; the site file is for all to read, so no password."""
    named = text(value)
    if named == "sqlite":
        return named
    parts = _URL.fullmatch(named)
    if not parts:
        why = f"{show(named)} is no store"
        raise Mistake(why, do="write sqlite, or postgresql+psycopg://user@host/database")
    if parts["password"] or "password=" in named.lower():
        why = "a password stands in the URL, and this file is for all to read"
        raise Mistake(why, do="put it into the file ~/.pgpass of the service's account")
    return named


def choice(*names: str) -> BeforeValidator:
    """Return a validator for one of several words."""

    def check(value: Any) -> str:
        word = text(value)
        if word not in names:
            near = nearest(word, names)
            do = "" if near else f"write one of: {', '.join(names)}"
            raise Mistake(f"{show(word)} is not one of {', '.join(names)}", write=near or "", do=do)
        return word

    return _told(check)


def version(supported: int) -> BeforeValidator:
    """Return a validator for the number of the schema."""

    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value != supported:
            why = f"{show(value)} is not a schema of this dask-site, which reads {supported}"
            raise Mistake(why, write=str(supported))
        return value

    return _told(check)


_SAFE = ". _ - , : @ + = /"
Name = Annotated[str, _told(single_line)]
Word = Annotated[str, _told(text)]
Token = Annotated[
    str,
    _told(_one_of_shell(_WORD, _SAFE)),
    WithJsonSchema({"type": "string", "pattern": f"^{_WORD}$"}),
]
Principal = Annotated[
    str,
    _told(_one_of_shell(_PRINCIPAL, ". _ - with @ in front of a group")),
    WithJsonSchema({"type": "string", "pattern": f"^{_PRINCIPAL}$"}),
]
StoreUrl = Annotated[str, _told(store_url)]
Domain = Annotated[
    str, _told(domain), WithJsonSchema({"type": "string", "pattern": f"^{_DOMAIN}$"})
]
HttpsUrl = Annotated[
    str, _told(https_url), WithJsonSchema({"type": "string", "pattern": f"^{_HTTPS.pattern}$"})
]
Header = Annotated[
    str, _told(header), WithJsonSchema({"type": "string", "pattern": f"^{_HEADER}$"})
]
Network = Annotated[str, _told(network)]
Constraint = Annotated[str, _told(_one_of_shell(_CONSTRAINT, f"{_SAFE} & | * ( ) [ ]"))]
Folder = Annotated[str, _told(folder)]
ShellLine = Annotated[str, _told(shell_line)]
Directive = Annotated[str, _told(directive)]
Prose = Annotated[str, _told(prose)]
Flag = Annotated[bool, _told(flag)]
Price = Annotated[float, _told(price)]
Port = Annotated[int, _told(port)]
Memory = Annotated[
    int,
    _told(parse_memory),
    PlainSerializer(format_memory),
    WithJsonSchema({"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)? *([kKMGTP]i?)?B$"}),
]
_DURATION = WithJsonSchema(
    {
        "type": "string",
        "pattern": r"^([0-9]+-)?[0-9]+:[0-9]{2}:[0-9]{2}$|^([0-9]+(\.[0-9]+)? *[dhms] *)+$",
    }
)
Walltime = Annotated[timedelta, _told(parse_walltime), PlainSerializer(format_walltime), _DURATION]
Age = Annotated[timedelta, _told(age), PlainSerializer(format_walltime), _DURATION]
