"""example_topology as a person uses it: forms, files, pastes, exit statuses. Python's standard library alone.

    topology_cli.py --program build/examples/example_topology [--mpirun mpirun]
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest
import xml.dom.minidom

PROGRAM = MPIRUN = ""

IBSTAT = """CA 'mlx5_0'
	CA type: MT4129
	Number of ports: 1
	Firmware version: 28.39.1002
	Hardware version: 0
	Node GUID: 0xb83fd20300a1b2c3
	System image GUID: 0xb83fd20300a1b2c3
	Port 1:
		State: Active
		Physical state: LinkUp
		Rate: 400
		Base lid: 12
		LMC: 0
		SM lid: 1
		Capability mask: 0xa751e848
		Port GUID: 0xb83fd20300a1b2c3
		Link layer: InfiniBand
CA 'mlx5_1'
	CA type: MT4129
	Number of ports: 1
	Firmware version: 28.39.1002
	Hardware version: 0
	Node GUID: 0xb83fd20300a1b2c4
	System image GUID: 0xb83fd20300a1b2c4
	Port 1:
		State: Down
		Physical state: Polling
		Rate: 40
		Base lid: 65535
		LMC: 0
		SM lid: 0
		Capability mask: 0xa751e848
		Port GUID: 0xb83fd20300a1b2c4
		Link layer: InfiniBand
"""

IP_ADDR = """1: lo: <LOOPBACK,UP,LOWER_UP> mtu 65536 qdisc noqueue state UNKNOWN group default qlen 1000
    link/loopback 00:00:00:00:00:00 brd 00:00:00:00:00:00
    inet 127.0.0.1/8 scope host lo
       valid_lft forever preferred_lft forever
2: ens3f0: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1500 qdisc mq state UP group default qlen 1000
    link/ether 02:00:00:00:00:01 brd ff:ff:ff:ff:ff:ff
    inet 10.1.2.3/24 brd 10.1.2.255 scope global ens3f0
       valid_lft forever preferred_lft forever
"""


def run(*args, stdin="", env=None):
    """(exit status, standard output, standard error)"""
    done = subprocess.run([PROGRAM, *args], input=stdin, capture_output=True, text=True, timeout=120, env={**os.environ, **(env or {})})
    return done.returncode, done.stdout, done.stderr


def stored(**more):
    return json.dumps({"format": "dsinfer-cluster", "version": 1, "nodes": [{"name": "n1"}, {"name": "n2"}], **more})


class ThisMachine(unittest.TestCase):
    def test_text_names_every_part(self):
        status, out, err = run()
        self.assertEqual((status, err), (0, ""))
        for part in ("CPU", "GPUs", "HCAs", "Interfaces", "Network"):
            self.assertIn(part, out)
        self.assertNotIn("\x1b", out)  # not a terminal
        self.assertIn("\x1b[", run("--color", "always")[1])

    def test_json_holds_the_published_names(self):
        status, out, _ = run("--json")
        self.assertEqual(status, 0)
        cluster = json.loads(out)
        self.assertEqual((cluster["format"], cluster["version"]), ("dsinfer-cluster", 1))
        node = cluster["nodes"][0]
        for key in ("name", "gpus", "gpu_count", "nvlink", "nics", "network"):
            self.assertIn(key, node)
        for key in ("transport", "link_layer", "hcas", "hcas_excluded", "gid_index", "socket_ifname", "gpu_nic_affinity", "fallback_reason",
                    "plugin_fabric", "environment", "reasons"):
            self.assertIn(key, node["network"])
        self.assertIn(node["network"]["transport"], ("ib", "roce", "socket", None))

    def test_interfaces_are_those_of_the_kernel(self):
        try:
            shown = json.loads(subprocess.run(["ip", "-j", "addr"], capture_output=True, text=True, check=True).stdout)
        except (OSError, subprocess.CalledProcessError):
            self.skipTest("the tool ip is not installed")
        node = json.loads(run("--json")[1])["nodes"][0]
        found = {interface["name"]: interface for interface in node["interfaces"]}
        for interface in shown:
            self.assertIn(interface["ifname"], found)
            self.assertEqual(found[interface["ifname"]]["mtu"], interface["mtu"])
            addresses = {(address["ip"], address["prefix_len"]) for address in found[interface["ifname"]]["addresses"]}
            self.assertEqual(addresses, {(address["local"], address["prefixlen"]) for address in interface["addr_info"] if "local" in address})


class Forms(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def file(self, name, text):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return str(path)

    def test_svg_is_written_and_well_formed(self):
        path = self.folder / "machine.svg"
        status, out, _ = run("--svg", str(path))
        self.assertEqual((status, out), (0, ""))
        self.assertEqual(xml.dom.minidom.parse(str(path)).documentElement.tagName, "svg")
        self.assertIn("<svg", run("--svg", "-")[1])

    def test_dot_is_a_graph(self):
        status, out, _ = run("--dot")
        self.assertEqual(status, 0)
        self.assertTrue(out.startswith("graph"), out[:80])

    def test_a_stored_cluster_comes_back_the_same(self):
        for machine in ([], ["--from", self.file("ibstat.txt", IBSTAT)]):
            first = run("--json", *machine)[1]
            again = run("--json", "--from", self.file("stored.json", first))[1]
            self.assertEqual(json.loads(again), json.loads(first))
            self.assertEqual(run("--json", "--from", "-", stdin=first)[1], again)

    def test_a_folder_of_captures_is_one_machine(self):
        self.file("capture/first.txt", IBSTAT)
        self.file("capture/second.txt", IP_ADDR)
        status, out, err = run("--json", "--from", str(self.folder / "capture"))
        self.assertEqual(status, 0, err)
        nodes = json.loads(out)["nodes"]
        self.assertEqual(len(nodes), 1)
        network = nodes[0]["network"]
        self.assertEqual((network["transport"], network["link_layer"], network["hcas"]), ("ib", "InfiniBand", ["mlx5_0"]))
        self.assertEqual(network["socket_ifname"], "ens3f0")
        self.assertEqual(network["ports_down"], {"mlx5_1": "Polling"})
        self.assertIn("mlx5_1", network["hcas_excluded"])
        self.assertIn("port-down", [reason["code"] for reason in network["reasons"] if reason["subject"].startswith("mlx5_1")])

    def test_a_paste_gives_the_same_answer(self):
        status, out, err = run("--json", "--from", "-", stdin="user@far:~$ ibstat\n" + IBSTAT + "user@far:~$ ip addr\n" + IP_ADDR)
        self.assertEqual(status, 0, err)
        network = json.loads(out)["nodes"][0]["network"]
        self.assertEqual((network["transport"], network["hcas"], network["socket_ifname"]), ("ib", ["mlx5_0"], "ens3f0"))

    def test_env_gives_a_shell_the_exact_values(self):
        values = {"NCCL_A": "=mlx5_0:1,mlx5_1:1", "NCCL_B": "it's $HOME `id` \"q\" \\", "NCCL_C": "two\nlines", "NCCL_D": ""}
        path = self.file("stored.json", stored(nodes=[{"name": "n1", "network": {"environment": {"NCCL_A": "other"}}}, {"name": "n2", "network": {"environment": values}}]))
        for node in ("n2", "1"):
            script = f'eval "$(\'{PROGRAM}\' --env --node {node} --from \'{path}\')"; exec \'{sys.executable}\' -c "import json, os; print(json.dumps(dict(os.environ)))"'
            got = json.loads(subprocess.run(["sh", "-euc", script], capture_output=True, text=True, check=True, timeout=60).stdout)
            self.assertEqual({name: got[name] for name in values}, values)
        self.assertIn("export NCCL_A='other'", run("--env", "--from", path)[1])
        status, _, err = run("--env", "--node", "n9", "--from", path)
        self.assertEqual(status, 2)
        self.assertIn("n1, n2", err)

    def test_env_of_this_machine_is_shell(self):
        script = f'eval "$(\'{PROGRAM}\' --env)"; echo fine'
        self.assertEqual(subprocess.run(["sh", "-euc", script], capture_output=True, text=True, check=True, timeout=60).stdout, "fine\n")

    def test_check_tells_by_its_status(self):
        finding = {"code": "hca-count-differs", "severity": "error", "nodes": ["n2"], "text": "n2 uses 7", "evidence": ["seen there"], "advice": "look"}
        status, out, err = run("--check", "--from", self.file("bad.json", stored(findings=[finding])))
        self.assertEqual((status, err), (1, ""))
        for word in ("error", "hca-count-differs", "n2 uses 7", "seen there", "look"):
            self.assertIn(word, out)
        finding["severity"] = "warning"
        status, out, _ = run("--check", "--from", self.file("warned.json", stored(findings=[finding])))
        self.assertEqual((status, out.split()[0]), (0, "warning"))
        self.assertEqual(run("--check", "--from", self.file("good.json", stored()))[:2], (0, ""))
        finding["severity"] = "error"
        path = self.file("own.json", stored(nodes=[{"name": "n1", "findings": [finding]}]))
        self.assertEqual(run("--check", "--from", path)[0], 1)
        status, out, _ = run("--check", "--json", "--from", path)
        self.assertEqual(status, 1)
        json.loads(out)  # findings are in it, and nothing else is printed

    def test_what_is_wrong_is_said(self):
        for args, word in ((["--from", str(self.folder / "nowhere")], "nowhere"), (["--from", self.file("newer.json", stored(version=9))], "version"),
                           (["--from", self.file("wrong.json", stored(nodes=[{"name": 5}]))], "nodes[0]"), (["--frmo"], "--frmo"),
                           (["--json", "--dot"], "choose one"), (["--color", "blue"], "blue"), (["--node", "n1"], "--env"),
                           (["--svg", str(self.folder / "no" / "folder.svg")], "folder.svg"), (["extra"], "extra")):
            status, out, err = run(*args)
            self.assertEqual((status, out), (2, ""), args)
            self.assertIn(word, err)
            self.assertTrue(err.startswith("example_topology: "), err)
        self.assertEqual(run("--help")[0], 0)


class Ranks(unittest.TestCase):
    def mpirun(self, *args):
        if not MPIRUN:
            self.skipTest("no MPI in this build")
        environment = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_rmaps_base_oversubscribe": "1",
                       "OMPI_MCA_mpi_yield_when_idle": "1", "OMPI_MCA_hwloc_base_binding_policy": "none"}
        done = subprocess.run([MPIRUN, "-n", "3", PROGRAM, *args], capture_output=True, text=True, timeout=120, env=environment)
        return done.returncode, done.stdout

    def test_rank_zero_shows_the_job_once(self):
        status, out = self.mpirun("--json")
        self.assertEqual(status, 0)
        cluster = json.loads(out)
        self.assertEqual(cluster["node_of_rank"], [0, 0, 0])
        self.assertEqual(len(cluster["nodes"]), 1)

    def test_env_is_that_of_the_own_node(self):
        self.assertEqual(self.mpirun("--env")[0], 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--mpirun", default="")
    options, rest = parser.parse_known_args()
    PROGRAM, MPIRUN = options.program, options.mpirun
    unittest.main(argv=[sys.argv[0], *rest], verbosity=1)
