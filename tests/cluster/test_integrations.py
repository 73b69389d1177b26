"""What other systems of a site take from `integrations`, on a login node."""

import base64
import json
import shlex

import pytest

from nodes import ROOT, ended, node, until, variables
from ondemand import App, needs_ruby

KERNEL = ROOT / "integrations" / "jupyter" / "dask-site" / "kernel.json"
ASKED = """
from jupyter_client.manager import start_new_kernel
manager, client = start_new_kernel(kernel_name="dask-site", startup_timeout=60)
said = []
def hear(message):
    if message["msg_type"] in {"stream", "error"}:
        said.append(message["content"])
code = '''
import json, os
from dask_site import Cluster, pool
with Cluster(pools=["cpu"]) as cluster, cluster.get_client() as c:
    cluster.scale(cpu=1)
    with pool("cpu"):
        print(json.dumps([os.environ["DASK_SITE_RELEASE"], c.submit(os.uname).result().nodename]))
'''
try:
    client.execute_interactive(code, output_hook=hear, timeout=120)
    tell(said=said)
finally:
    client.stop_channels()
    manager.shutdown_kernel(now=True)
"""


def test_a_notebook_has_a_kernel_with_a_cluster(as_user, python, login1):
    folder = ".local/share/jupyter/kernels/dask-site"
    word = base64.b64encode(KERNEL.read_bytes()).decode()
    put = f"mkdir -p {folder} && echo {word} | base64 -d > {folder}/kernel.json"
    assert as_user("carol", put).rc == 0
    facts, result = python("carol", ASKED)
    text = "".join(
        one.get("text", "") for one in facts.get("said", ()) if one.get("name") == "stdout"
    )
    release, node_name = json.loads(text or "[0, 0]")
    current = login1.check_output("basename $(readlink /opt/dask-site/current)")
    assert (release, node_name in {"c1", "c2"}) == (current, True), (facts, result.stderr)


@needs_ruby
@pytest.mark.parametrize("pool", ["cpu", "highmem", "gpu"])
def test_open_ondemand_asks_the_queue_for_the_share_of_a_worker(pool, as_user, tmp_path):
    told = App(tmp_path, variables()["site"]).render(pool=pool, bc_num_hours=1)
    script = json.loads(told.stdout)["submit"]["script"]
    asked = ["sbatch", "--parsable", "--time=5", "-p", script["queue_name"], *script["native"]]
    asked += ["--output=ondemand.out", "--wrap=nproc; echo $SLURM_MEM_PER_NODE $SLURM_GPUS_ON_NODE"]
    job = as_user("carol", shlex.join(asked)).stdout.strip()
    assert until(lambda: ended(job) == ["COMPLETED"], 90), (ended(job), asked)
    said = node("login1").check_output("cat /home/carol/ondemand.out").split()
    site = variables()["site"]["pools"][pool]
    share = site.get("processes", 1)
    memory = int(site["memory"].removesuffix("GiB")) * 1024 // share
    assert said[1:] == [str(memory), *([str(site["gpus"] // share)] if "gpus" in site else [])]
