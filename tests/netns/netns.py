"""Network namespaces as nodes: veth pairs on a bridge that is a namespace of its own, so that nothing here touches the machine's network.

    netns.py --rank PROGRAM [--mpirun PROGRAM] [scene ...]

Needs root, `ip` and `unshare`; exits with 77 where they are missing. Every namespace is named dsinfer-<pid>-… and is removed at the end, also
those that a killed run left behind.
"""
import argparse
import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

PREFIX = "dsinfer-"
ME = f"{PREFIX}{os.getpid()}-"


def skip(why):
    print(f"SKIP: {why}")
    sys.exit(77)


def run(*command, check=True):
    return subprocess.run(command, check=check, capture_output=True, text=True, timeout=20)


def ip(*command):
    run("ip", *command)


def batch(options, lines):
    subprocess.run(["ip", *options, "-batch", "-"], input="\n".join(lines) + "\n", check=True, capture_output=True, text=True, timeout=30)


def namespaces():
    return [line.split()[0] for line in run("ip", "netns", "list", check=False).stdout.splitlines() if line.strip()]


def alive(pid):
    return os.path.exists(f"/proc/{pid}")


def clean():
    for name in namespaces():
        if not name.startswith(PREFIX):
            continue
        owner = name[len(PREFIX):].split("-")[0]
        if name.startswith(ME) or (owner.isdigit() and not alive(owner)):
            run("ip", "netns", "del", name, check=False)


class Net:
    """Nodes on one switch. Each: (host name, interface, [addresses], MTU)."""

    def __init__(self, nodes):
        self.nodes = nodes
        self.switch = ME + "switch"
        clean()
        batch([], ["netns add " + name for name in [self.switch] + [self.name(i) for i in range(len(nodes))]])
        switch = ["link add name bridge0 mtu 9000 type bridge", "link set bridge0 up"]
        for i, (_, interface, _, _) in enumerate(nodes):
            switch += [f"link add name port{i} mtu 9000 type veth peer name {interface} netns {self.name(i)}", f"link set port{i} master bridge0 up"]
        batch(["-n", self.switch], switch)
        for i, (_, interface, addresses, mtu) in enumerate(nodes):
            # docker0 is what container runtimes leave everywhere: the same address on all nodes, never a way between them.
            batch(["-n", self.name(i)], ["link set lo up", "link add name docker0 type bridge", "addr add 172.17.0.1/16 dev docker0", "link set docker0 up",
                                         f"link set {interface} mtu {mtu} up"] + [f"addr add {address} dev {interface}" for address in addresses])

    def name(self, node):
        return f"{ME}node{node}"

    def ip(self, node, *command):
        ip("-n", self.name(node), *command)

    def inside(self, node, *command):
        return ["ip", "netns", "exec", self.name(node), "unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', self.nodes[node][0], *command]

    def gather(self, rank, timeout_ms=3000):
        """The cluster as the ranks, one a node, see it, and how long they took."""
        folder = tempfile.mkdtemp(prefix="dsinfer-netns-")
        size = len(self.nodes)
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("NCCL_", "UCX_", "GLOO_", "OMPI_"))}
        begin = time.monotonic()
        ranks = [subprocess.Popen(self.inside(i, rank, folder, str(i), str(size), str(timeout_ms)), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                  text=True, env=environment) for i in range(size)]
        try:
            outputs = [r.communicate(timeout=60) for r in ranks]
        finally:
            for r in ranks:
                if r.poll() is None:
                    r.kill()
                    r.wait()
            shutil.rmtree(folder, ignore_errors=True)
        for r, (_, error) in zip(ranks, outputs):
            assert r.returncode == 0, error
        return json.loads(outputs[0][0]), time.monotonic() - begin


def findings(cluster, code):
    return [f for f in cluster["findings"] if f["code"] == code]


def reach(cluster):
    names = [n["name"] for n in cluster["nodes"]]
    return {(names[r["from"]], names[r["to"]]): r for r in cluster["reach"]}


def chosen(cluster):
    return {n["name"]: n["network"]["socket_ifname"] for n in cluster["nodes"]}


def expect(condition, text, *more):
    if not condition:
        raise AssertionError(text + "".join(f"\n  {json.dumps(m, indent=1)}" for m in more))


FOUR = [("n0", "eth0", ["10.9.0.1/24"], 1500), ("n1", "ens3", ["10.9.0.2/24"], 1500), ("n2", "lan7", ["10.9.0.3/24"], 1500), ("n3", "net1", ["10.9.0.4/24"], 1500)]
NAMES = {"n0": "eth0", "n1": "ens3", "n2": "lan7", "n3": "net1"}


def with_node(index, **changes):
    nodes = list(FOUR)
    host, interface, addresses, mtu = nodes[index]
    nodes[index] = (host, interface, changes.get("addresses", addresses), changes.get("mtu", mtu))
    return nodes


def names_differ(rank):
    cluster, _ = Net(FOUR).gather(rank)
    expect(cluster["node_of_rank"] == [0, 1, 2, 3], "each namespace is a node", cluster["node_of_rank"])
    expect(chosen(cluster) == NAMES, "each node's own name of the common network", chosen(cluster))
    expect(len(cluster["reach"]) == 12 and all(r["ok"] for r in cluster["reach"]), "all reach all", cluster["reach"])
    expect(not findings(cluster, "peer-unreachable") and not findings(cluster, "mtu-differs"), "nothing is wrong", cluster["findings"])
    for node in cluster["nodes"]:
        expect(node["network"]["transport"] == "socket", "no HCA: sockets", node["network"])


def smaller_mtu(rank):
    cluster, _ = Net(with_node(2, mtu=1400)).gather(rank)
    expect(chosen(cluster) == NAMES, "the choice stays", chosen(cluster))
    found = findings(cluster, "mtu-differs")
    expect(len(found) == 1, "the smaller MTU is found", cluster["findings"])
    expect("1400" in json.dumps(found), "with its value", found)
    expect(all(r["ok"] for r in cluster["reach"]), "TCP copes with it", cluster["reach"])


def large_frames_lost(rank):
    net = Net([(h, i, a, 9000) for h, i, a, _ in FOUR[:3]])
    for node, (_, interface, _, _) in enumerate(net.nodes):
        net.ip(node, "link", "set", interface, "gso_max_segs", "1")  # frames as on a wire
    ip("-n", net.switch, "link", "set", "port1", "mtu", "1500")  # what a switch without jumbo frames does: it says nothing
    cluster, _ = net.gather(rank, 1500)
    found = findings(cluster, "peer-unreachable")
    expect(len(found) == 1 and found[0]["nodes"] == ["n1"], "the node behind the small link is named", cluster["findings"])
    expect("large ones do not come back" in json.dumps(found), "and why", found)


def other_subnet(rank):
    cluster, _ = Net(with_node(2, addresses=["10.77.0.3/24"])).gather(rank)
    expect(chosen(cluster) == NAMES, "there is nothing better to choose", chosen(cluster))
    expect(len(findings(cluster, "socket-subnet-differs")) == 1, "the subnet is found", cluster["findings"])
    found = findings(cluster, "peer-unreachable")
    expect(len(found) == 1 and found[0]["nodes"] == ["n2"], "and that nobody reaches it", cluster["findings"])
    expect("Network is unreachable" in json.dumps(found), "with the kernel's word", found)


def routed_subnet(rank):
    net = Net(with_node(2, addresses=["10.77.0.3/24"]))
    ip("-n", net.switch, "addr", "add", "10.9.0.254/24", "dev", "bridge0")
    ip("-n", net.switch, "addr", "add", "10.77.0.254/24", "dev", "bridge0")
    ip("netns", "exec", net.switch, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
    for node in range(4):
        net.ip(node, "route", "add", "default", "via", "10.77.0.254" if node == 2 else "10.9.0.254")
    cluster, _ = net.gather(rank)
    expect(chosen(cluster) == NAMES, "the interface of the default route", chosen(cluster))
    expect(all(r["ok"] for r in cluster["reach"]), "a route will do", cluster["reach"])
    expect(not findings(cluster, "peer-unreachable"), "nothing unreachable", cluster["findings"])


def link_local_only(rank):
    cluster, _ = Net(with_node(3, addresses=["169.254.3.4/16"])).gather(rank)
    expect(chosen(cluster) == NAMES, "it has nothing else", chosen(cluster))
    found = findings(cluster, "peer-unreachable")
    expect(len(found) == 1 and found[0]["nodes"] == ["n3"], "the node with a link-local address alone is named", cluster["findings"])
    for (a, b), r in reach(cluster).items():
        expect(r["ok"] == ("n3" not in (a, b)), "only its pairs fail", r)


def broken_pair(rank):
    net = Net(FOUR)
    net.ip(0, "route", "add", "blackhole", "10.9.0.2/32")
    cluster, _ = net.gather(rank)
    found = findings(cluster, "peer-unreachable")
    expect(len(found) == 1 and found[0]["nodes"] == ["n0", "n1"], "the pair is named", cluster["findings"])
    expect(found[0]["severity"] == "error" and found[0]["advice"], "with advice", found)
    expect("ens3" in json.dumps(found) and "10.9.0.2" in json.dumps(found), "with interface and address", found)
    for (a, b), r in reach(cluster).items():
        expect(r["ok"] == ({a, b} != {"n0", "n1"}), "only this pair fails", r)


def forbidden_route(rank):
    net = Net(FOUR)
    net.ip(0, "route", "add", "prohibit", "10.9.0.2/32")
    cluster, _ = net.gather(rank, 1500)
    expect("Permission denied" in reach(cluster)[("n0", "n1")]["error"], "the kernel's word is told", cluster["reach"])
    expect("no answer to connect within 1500 ms" in reach(cluster)[("n1", "n0")]["error"], "the other side hears nothing", cluster["reach"])


def same_address_twice(rank):
    cluster, _ = Net(with_node(3, addresses=["10.9.0.1/24"])).gather(rank, 1500)
    both = [r for pair, r in reach(cluster).items() if set(pair) == {"n0", "n3"}]
    expect(all(not r["ok"] and "same address" in r["error"] for r in both), "a doubled address is told", both)
    expect(findings(cluster, "peer-unreachable"), "as a finding", cluster["findings"])


def ipv6_only(rank):
    nodes = [(h, i, [f"fd00:9::{k + 1}/64"], m) for k, (h, i, _, m) in enumerate(FOUR[:3])]
    net = Net(nodes)
    time.sleep(2.5)  # duplicate address detection
    cluster, _ = net.gather(rank)
    expect({k: v for k, v in NAMES.items() if k != "n3"} == chosen(cluster), "interfaces with IPv6 alone", chosen(cluster))
    expect(all(r["ok"] for r in cluster["reach"]), "reach each other", cluster["reach"])


def ranks_share_nodes(rank):
    """Two ranks in each of two namespaces."""
    net = Net(FOUR[:2])
    folder = tempfile.mkdtemp(prefix="dsinfer-netns-")
    ranks = [subprocess.Popen(net.inside(i // 2, rank, folder, str(i), "4"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for i in range(4)]
    try:
        outputs = [r.communicate(timeout=60) for r in ranks]
    finally:
        for r in ranks:
            if r.poll() is None:
                r.kill()
                r.wait()
        shutil.rmtree(folder, ignore_errors=True)
    expect(all(r.returncode == 0 for r in ranks), "all ranks end well", [e for _, e in outputs])
    cluster = json.loads(outputs[0][0])
    expect(cluster["node_of_rank"] == [0, 0, 1, 1], "ranks of one namespace are one node", cluster["node_of_rank"])
    expect(len(cluster["reach"]) == 2 and all(r["ok"] for r in cluster["reach"]), "one test a pair", cluster["reach"])


def ranks_of_mpi(rank, mpirun):
    """mpirun starts its ranks in the namespaces as it does on hosts, only by `ip netns exec` instead of ssh."""
    net = Net(FOUR)
    folder = tempfile.mkdtemp(prefix="dsinfer-netns-")
    agent = os.path.join(folder, "agent.sh")
    cases = "".join(f"10.9.0.{i + 1}) space={net.name(i)} name={net.nodes[i][0]};;\n" for i in range(4))
    with open(agent, "w", encoding="utf-8") as file:
        file.write(f'#!/bin/sh\nhost=$1\nshift\ncase $host in\n{cases}esac\nexec ip netns exec $space unshare --uts sh -c "hostname $name; $*"\n')
    os.chmod(agent, 0o755)
    environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMPI_MCA_rmaps_base_oversubscribe="1",
                       OMPI_MCA_mpi_yield_when_idle="1", OMPI_MCA_hwloc_base_binding_policy="none", OMPI_MCA_plm_rsh_agent=agent, OMPI_MCA_pml="ob1",
                       OMPI_MCA_btl="tcp,self", OMPI_MCA_oob_tcp_if_include="10.9.0.0/24", OMPI_MCA_btl_tcp_if_include="10.9.0.0/24")
    hosts = ",".join(f"10.9.0.{i + 1}:2" for i in range(4))
    try:
        done = subprocess.run(net.inside(0, mpirun, "-n", "8", "--map-by", "node", "--host", hosts, os.path.abspath(rank), "mpi"), env=environment,
                              capture_output=True, text=True, timeout=120)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    expect(done.returncode == 0, "mpirun ends well", done.stderr)
    cluster = json.loads(done.stdout)
    expect(sorted(cluster["node_of_rank"]) == [0, 0, 1, 1, 2, 2, 3, 3], "two ranks a node", cluster["node_of_rank"])
    expect(chosen(cluster) == NAMES, "each node's own name of the common network", chosen(cluster))
    expect(len(cluster["reach"]) == 12 and all(r["ok"] for r in cluster["reach"]), "all reach all", cluster["reach"])


SCENES = [names_differ, smaller_mtu, large_frames_lost, other_subnet, routed_subnet, link_local_only, broken_pair, forbidden_route, same_address_twice, ipv6_only,
          ranks_share_nodes]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rank", required=True)
    parser.add_argument("--mpirun")
    parser.add_argument("scenes", nargs="*")
    options = parser.parse_args()
    if os.geteuid() != 0:
        skip("network namespaces need root")
    for tool in ("ip", "unshare", "hostname"):
        if not shutil.which(tool):
            skip(f"no {tool} here")
    probe = ME + "probe"
    try:
        ip("netns", "add", probe)
        ip("-n", probe, "link", "add", "name", "probe0", "type", "veth", "peer", "name", "probe1")
        ip("-n", probe, "link", "add", "name", "probe2", "type", "bridge")
        run("ip", "netns", "exec", probe, "unshare", "--uts", "true")
    except (subprocess.SubprocessError, OSError) as error:
        clean()
        skip(f"this machine admits no network namespaces, veth pairs or bridges ({getattr(error, 'stderr', '') or error})")
    atexit.register(clean)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    failed = 0
    for scene in SCENES + ([ranks_of_mpi] if options.mpirun else []):
        if options.scenes and scene.__name__ not in options.scenes:
            continue
        begin = time.monotonic()
        try:
            scene(options.rank, options.mpirun) if scene is ranks_of_mpi else scene(options.rank)
            print(f"passed  {scene.__name__} ({time.monotonic() - begin:.1f} s)", flush=True)
        except (AssertionError, subprocess.SubprocessError, KeyError, ValueError) as error:
            failed += 1
            print(f"FAILED  {scene.__name__}: {error} {getattr(error, 'stderr', '') or ''}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
