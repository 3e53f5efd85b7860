"""What example_topology says of this machine, beside what the machine's own tools say: ip, lscpu, nvidia-smi.

    topology_compare.py PATH/example_topology        exit 0: equal; 1: differences, each printed; 77: no tool to compare with

A tool that is not here is left out with a word. Nothing is asserted about values, only that both sides agree.
"""
import csv
import io
import json
import re
import shutil
import subprocess
import sys

differences, compared, skipped = [], 0, []


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def tool(*command):
    """Output of a tool, or None if it is not here or refuses."""
    if not shutil.which(command[0]):
        skipped.append(command[0] + ": not installed")
        return None
    result = run(*command)
    if result.returncode != 0 or not result.stdout.strip():
        skipped.append(" ".join(command) + ": " + (result.stderr or result.stdout or "no output").strip().splitlines()[0][:100])
        return None
    return result.stdout


def same(what, ours, theirs):
    global compared
    compared += 1
    if ours != theirs:
        differences.append(f"{what}: we say {ours!r}, the tool {theirs!r}")


def check_interfaces(node):
    text = tool("ip", "-j", "addr")
    if not text:
        return
    theirs = json.loads(text)
    ours = {i["name"]: i for i in node["interfaces"]}
    same("interfaces in kernel order", [i["name"] for i in node["interfaces"]], [i["ifname"] for i in theirs])
    for interface in theirs:
        mine = ours.get(interface["ifname"])
        if not mine:
            continue
        name = interface["ifname"]
        same(f"{name} mtu", mine["mtu"], interface["mtu"])
        same(f"{name} addresses", sorted((a["ip"], a["prefix_len"]) for a in mine["addresses"]),
             sorted((a["local"], a["prefixlen"]) for a in interface.get("addr_info", [])))
    routes = tool("ip", "-j", "route", "show", "default")
    if routes:
        best = min(json.loads(routes), key=lambda r: r.get("metric", 0), default=None)
        same("default route", [i["name"] for i in node["interfaces"] if i["default_route"]][:1], [best["dev"]] if best else [])


def cpu_set(text):
    cpus = set()
    for part in (text or "").split(","):
        if part.strip():
            low, _, high = part.strip().partition("-")
            cpus.update(range(int(low), int(high or low) + 1))
    return cpus


def check_cpu(node):
    text = tool("lscpu", "-J")
    if not text:
        return
    fields = {}

    def walk(entries):
        for e in entries:
            fields.setdefault(e["field"].rstrip(":"), e.get("data"))
            walk(e.get("children", []))

    walk(json.loads(text)["lscpu"])
    host = node["host"]
    same("logical CPUs", host["logical_cpus"], len(cpu_set(fields.get("On-line CPU(s) list"))) or int(fields["CPU(s)"]))
    if fields.get("Socket(s)", "-").isdigit():
        same("packages", host["packages"], int(fields["Socket(s)"]))
        if fields.get("Core(s) per socket", "-").isdigit():
            same("cores", host["cores"], int(fields["Socket(s)"]) * int(fields["Core(s) per socket"]))
    same("architecture", host["arch"], fields.get("Architecture"))
    if fields.get("Model name", "-") not in ("-", "unknown"):
        same("CPU model", host["cpu_model"], fields["Model name"])
    for numa in host["numa"]:
        same(f"CPUs of NUMA node {numa['id']}", cpu_set(numa["cpus"]), cpu_set(fields.get(f"NUMA node{numa['id']} CPU(s)")))
    if "NUMA node(s)" in fields:
        same("NUMA nodes", len(host["numa"]), int(fields["NUMA node(s)"]))


def short_bus(text):
    domain, _, rest = text.lower().partition(":")
    return f"{int(domain, 16):04x}:{rest}"


def check_gpus(node):
    columns = "index,name,pci.bus_id,memory.total,driver_version,uuid,compute_cap"
    text = tool("nvidia-smi", "--query-gpu=" + columns, "--format=csv,noheader,nounits")
    if not text:
        return
    rows = [[c.strip() for c in row] for row in csv.reader(io.StringIO(text)) if row]
    same("number of GPUs", node["gpu_count"], len(rows))
    by_index = {g["index"]: g for g in node["gpus"]}
    for index, name, bus, memory, driver, uuid, capability in rows:
        gpu = by_index.get(int(index))
        if not gpu:
            continue
        same(f"GPU{index} name", gpu["name"], name)
        same(f"GPU{index} bus id", gpu["bus_id"], short_bus(bus))
        same(f"GPU{index} memory MiB", gpu["memory_bytes"] >> 20, int(memory))
        same(f"GPU{index} UUID", gpu["uuid"], uuid)
        same(f"GPU{index} compute capability", f"{gpu['compute_major']}.{gpu['compute_minor']}", capability)
        same("driver", node["host"]["driver_version"], driver)
    query = tool("nvidia-smi", "-q")
    if query:
        version = re.search(r"^CUDA Version\s*:\s*(\S+)", query, re.M)
        if version:
            same("CUDA driver version", node["host"]["cuda_driver_version"], version[1])
        same("MIG modes", [g["mig"] for g in node["gpus"]],
             [{"Enabled": True, "Disabled": False}.get(m) for m in re.findall(r"MIG Mode\s*\n\s*Current\s*:\s*(\S+)", query)])


def check_matrix(node):
    text = tool("nvidia-smi", "topo", "-m")
    if not text:
        return
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in text.splitlines()]
    head = next(line for line in lines if "GPU0" in line and not line.strip().startswith("GPU0\t X"))
    labels = [w for w in head.split("\t") if re.fullmatch(r"GPU\d+|NIC\d+", w.strip())]
    labels = [w.strip() for w in labels]
    legend = dict(re.findall(r"^\s*(NIC\d+): (\S+)", "\n".join(lines), re.M))
    ours = {}
    for path in node["paths"]:
        word = f"NV{path['nvlinks']}" if path["kind"] == "NVL" else path["kind"]
        ours[path["a"], path["b"]] = ours[path["b"], path["a"]] = word
    for line in lines:
        cells = [c.strip() for c in line.split("\t")]
        if not cells or cells[0] not in labels:
            continue
        for label, word in zip(labels, cells[1:]):
            a, b = legend.get(cells[0], cells[0]), legend.get(label, label)
            if a != b and a.startswith("GPU") and b.startswith("GPU"):
                same(f"path {a} – {b}", ours.get((a, b)), word)


def check_import(program, node):
    """The same facts through what the tools print: a paste from here gives the same GPUs as looking here."""
    for command in (("nvidia-smi", "topo", "-m"), ("ip", "addr"), ("nvidia-smi",), ("nvidia-smi", "-q"), ("nvidia-smi", "nvlink", "--status")):
        text = tool(*command)
        if not text:
            continue
        pasted = subprocess.run([program, "--from", "-", "--json"], input=text, capture_output=True, text=True, timeout=60)
        if pasted.returncode != 0:
            differences.append(f"pasting {' '.join(command)}: {pasted.stderr.strip()}")
            continue
        far = json.loads(pasted.stdout)["nodes"][0]
        what = f"pasted {' '.join(command)}: "
        if command[0] == "ip":
            same(what + "interfaces", [i["name"] for i in far["interfaces"]], [i["name"] for i in node["interfaces"]])
        elif command[-1] != "--status":
            same(what + "number of GPUs", far["gpu_count"], node["gpu_count"])
        if command[-1] in ("-m", "--status") and node["gpu_count"] > 1:
            same(what + "NVLink", far["nvlink"], node["nvlink"])


def main():
    program = sys.argv[1]
    result = run(program, "--json")
    if result.returncode != 0:
        print(result.stderr)
        return 1
    node = json.loads(result.stdout)["nodes"][0]
    check_interfaces(node)
    check_cpu(node)
    check_gpus(node)
    check_matrix(node)
    check_import(program, node)
    for line in dict.fromkeys(skipped):
        print("not compared:", line)
    for line in differences:
        print("different:", line)
    print(f"{compared} facts compared, {len(differences)} different")
    return 1 if differences else 0 if compared else 77


sys.exit(main())
