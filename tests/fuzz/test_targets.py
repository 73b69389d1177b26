"""A while of what `targets.py` does for as long as one likes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).with_name("targets.py")
RUNS = 20_000
# libFuzzer bounds the most memory that its process has had, which the kernel hands down from the
# one that starts it: here the tests, some of which took gigabytes.
AFRESH = ["sh", "-c", '"$@"; exit $?', "sh"]


@pytest.mark.parametrize("target", ["words", "onwards", "peers", "spools", "sent", "units"])
def test_nothing_breaks(target, tmp_path):
    command = [sys.executable, str(SCRIPT), target, f"-runs={RUNS}", "-seed=1", "-max_len=400"]
    done = subprocess.run(
        [
            *AFRESH,
            *command,
            "-timeout=10",
            f"-artifact_prefix={tmp_path}/",
            str(tmp_path / "corpus"),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert int(re.search(r"Done (\d+) runs", done.stderr)[1]) >= RUNS
    # It has found its way in: further than what is nothing of the kind.
    command[3] = "-runs=1"
    nothing = subprocess.run(command, capture_output=True, text=True)
    assert 0 < covered(nothing.stderr) < covered(done.stderr)


def covered(said):
    return int(re.findall(r"cov: (\d+)", said)[-1])
