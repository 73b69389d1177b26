"""What the rollout's acceptance does, as a check of ReFrame: a real job in every pool.

On a login node, as an ordinary user, from a checkout of dask-site:

    reframe -c integrations/reframe/dask_site_checks.py -r
    reframe -c integrations/reframe/dask_site_checks.py -r -S pools=cpu,gpu -S wait=600

It runs where ReFrame runs, as users' programs do; the jobs are those of its cluster.
"""

import shlex
from pathlib import Path

import reframe as rfm
import reframe.utility.sanity as sn
import reframe.utility.typecheck as typ
from reframe.core.builtins import performance_function, run_before, sanity_function, variable

ROOT = Path(__file__).resolve().parents[2]
ACCEPTANCE = ROOT / "roles" / "dask_acceptance" / "files" / "acceptance.py"
# A row of its table: pool, job, node, seconds until the worker had joined, result
ROW = r"^(?P<pool>\S+) +(?P<job>\S+) +(?P<node>\S+) +(?P<joined>[\d.]+) s +(?P<result>.*)$"


@rfm.simple_test
class DaskSitePools(rfm.RunOnlyRegressionTest):
    """One job in every pool of the site, with a task on its worker."""

    descr = "Dask workers in every pool of the site"
    valid_systems = ["*"]
    valid_prog_environs = ["*"]
    local = True
    maintainers = ["the site"]
    tags = {"dask", "production"}

    # What a user types to have Dask.
    prepare = variable(str, value="module load dask-site")
    # Empty: all that the site has.
    pools = variable(typ.List[str], value=[])
    # Seconds that a pool may take: waiting in the queue and the start of the worker.
    wait = variable(int, value=300)

    @run_before("run")
    def set_command(self):
        """Make the command of what was set."""
        self.prerun_cmds = [self.prepare]
        self.executable = "python"
        options = [str(ACCEPTANCE), "--timeout", str(self.wait), *self.pools]
        self.executable_opts = list(map(shlex.quote, options))
        self.time_limit = f"{self.wait + 120}s"

    @sanity_function
    def every_pool_works(self):
        """No pool is told not to work, and one at least was tried."""
        results = sn.extractall(ROW, self.stdout, "result")
        return sn.all(
            [
                sn.assert_eq(self.job.exitcode, 0, "pools do not work: see stderr of the check"),
                sn.assert_true(results, "no pool was tried"),
                sn.assert_true(sn.all(sn.map(lambda said: said.startswith("ok"), results))),
            ]
        )

    @performance_function("s")
    def slowest_start(self):
        """Seconds until the last of the workers had joined."""
        return sn.max(sn.extractall(ROW, self.stdout, "joined", float))
