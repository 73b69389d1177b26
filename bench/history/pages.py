"""How long the pages take to make, on a full store: the server's time of whole requests.

    python bench/history/pages.py --rows 10000000 --folder /var/tmp

Fills a store as `store.py` does, serves its pages on 127.0.0.1 as the service does, and asks for
each of them again and again: other clusters, other users.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "tests" / "unit")]

from store import fill, timed  # noqa: E402
from web_serving import DAEMON, ROOT, serving  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--times", type=int, default=60)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        today = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
        ids = fill(folder / "history.db", arguments.rows, today.timestamp())
        chance = random.Random(3)
        with serving(folder) as served:
            cookies = {uid: served.cookie(uid) for uid in (ROOT, DAEMON)}

            def ask(path: str, uid: int = ROOT) -> None:
                status, _, body = served.get(path, Cookie=cookies[uid])
                assert status == 200, body

            pages = {
                "a cluster": lambda _: ask(f"/clusters/{chance.choice(ids)}"),
                "a user's clusters": lambda _: ask("/", DAEMON),
                "another user's clusters": lambda n: ask(f"/?user={2 + n % 200}"),
                "the site's 30 days": lambda _: ask("/site"),
                "where, by day": lambda _: ask("/where?by=day", DAEMON),
                "where, by span": lambda _: ask("/where?by=span", DAEMON),
                "two compared": lambda _: ask(
                    f"/compare?a={chance.choice(ids)}&b={chance.choice(ids)}"
                ),
            }
            found = {what: timed(what, arguments.times, page) for what, page in pages.items()}
        print(json.dumps({"rows": arguments.rows, "cores": os.cpu_count(), **found}))


if __name__ == "__main__":
    main()
