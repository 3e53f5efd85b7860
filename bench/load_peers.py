#!/usr/bin/env python3
"""Loading beside its peers, on the same files in one run: fio, parallel pread, Python's safetensors, fastsafetensors, runai-model-streamer.

usage: load_peers.py --bench build/bench/bench_load --folder SCRATCH [--gb 8.5] [--repeat 3] [--ranks 1,4,16] [--python PYTHON] [--json FILE]

Writes the checkpoint once. `cold`: the files are dropped from the page cache before each run; `cached`: read whole before. Medians, GB/s. The
Python peers run in --python's environment; what is not installed there is left out, and said.
"""
import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

PEERS = {
    "safetensors": """
from safetensors import safe_open
for f in files:
    with safe_open(f, framework=framework) as s:
        for k in s.keys():
            held.append(s.get_tensor(k).clone())
""",
    "fastsafetensors": """
from fastsafetensors import SafeTensorsFileLoader, SingleGroup
loader = SafeTensorsFileLoader(SingleGroup(), "cpu", nogds=True)
loader.add_filenames({0: files})
buffers = loader.copy_files_to_device()
for k in buffers.key_to_rank_lidx.keys():
    held.append(buffers.get_tensor(k))
""",
    "runai-model-streamer": """
from runai_model_streamer import SafetensorsStreamer
with SafetensorsStreamer() as s:
    for f in files:
        s.stream_file(f)
        for k, t in s.get_tensors():
            held.append(t.clone())
""",
}
WRAP = """
import json, resource, sys, time
files, framework, held = sys.argv[1:], "pt", []
import torch
start = time.monotonic()
{body}
seconds = time.monotonic() - start
bytes = sum(t.numel() * t.element_size() for t in held)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps(dict(seconds=seconds, bytes=bytes, gb_per_s=bytes / seconds * 1e-9, extra_bytes_per_rank=max(0, peak - bytes))))
"""


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bench", required=True)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--gb", type=float, default=8.5)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--ranks", default="1,4,16")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--json")
    return parser.parse_args()


def last_line(command, **more):
    done = subprocess.run(command, capture_output=True, text=True, **more)
    if done.returncode != 0:
        raise RuntimeError((done.stderr.strip() or done.stdout.strip() or f"status {done.returncode}").splitlines()[-1][:200])
    return json.loads(done.stdout.strip().splitlines()[-1])


def fio(files):
    """One job that reads the files one after the other, as load() does."""
    job = ["fio", "--name=read", "--rw=read", "--bs=8m", "--iodepth=32", "--direct=1", "--ioengine=io_uring", "--readonly", "--file_service_type=sequential",
           "--filename=" + ":".join(map(str, files)), "--output-format=json"]
    done = subprocess.run(job, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip()[:200] or "fio failed")
    read = json.loads(done.stdout[done.stdout.index("{"):])["jobs"][0]["read"]
    return {"seconds": read["runtime"] / 1000, "bytes": read["io_bytes"], "gb_per_s": read["io_bytes"] / (read["runtime"] / 1000) * 1e-9}


def main():
    args = arguments()
    folder = pathlib.Path(args.folder)
    subprocess.run([args.bench, "make", folder, str(args.gb)], check=True, stdout=subprocess.DEVNULL)
    files = sorted(folder.glob("*.safetensors"))
    cores = os.cpu_count()
    results = []

    def cold():
        subprocess.run([args.bench, "cold", folder], check=True)

    def warm():
        for file in files:
            with open(file, "rb", buffering=0) as f:
                while f.read(8 << 20):
                    pass

    def case(name, state, run):
        runs, error = [], None
        for _ in range(args.repeat):
            cold() if state == "cold" else warm()
            try:
                runs.append(run())
            except (RuntimeError, OSError, ValueError) as e:
                error = str(e)
                break
        result = {"case": name, "state": state, "error": error}
        if not error:
            result["gb_per_s"] = statistics.median(r["gb_per_s"] for r in runs)
            result["all_gb_per_s"] = [round(r["gb_per_s"], 3) for r in runs]
            result["extra_mb_per_rank"] = max(r.get("extra_bytes_per_rank", 0) for r in runs) / 1e6
            result["method"] = runs[0].get("method", "")
        result["load"] = round(os.getloadavg()[0], 1)
        results.append(result)
        print(f"{name:34} {state:7}", error or f"{result['gb_per_s']:6.2f} GB/s   extra {result['extra_mb_per_rank']:7.1f} MB a rank   {result['method']}", flush=True)

    print(f"{platform.node()}: {cores} cores, load {os.getloadavg()[0]:.1f}, {sum(f.stat().st_size for f in files) / 1e9:.2f} GB in {len(files)} files")
    case("fio 8 MiB × 32, O_DIRECT", "cold", lambda: fio(files))
    for ranks in map(int, args.ranks.split(",")):
        case(f"load(), {ranks} ranks", "cold", lambda: last_line([args.bench, "load", folder, str(ranks), "auto"]))
    case("fio 8 MiB × 32, O_DIRECT, again", "cold", lambda: fio(files))
    for buffer in ("fresh", "huge", "touched"):
        case(f"pread by {cores} threads, {buffer} buffer", "cached", lambda: last_line([args.bench, "copy", folder, str(cores), buffer]))
    for ranks in map(int, args.ranks.split(",")):
        case(f"load(), {ranks} ranks", "cached", lambda: last_line([args.bench, "load", folder, str(ranks), "auto"]))
    for name, body in PEERS.items():
        for state in ("cold", "cached"):
            case(name, state, lambda: last_line([args.python, "-c", WRAP.replace("{body}", body), *map(str, files)]))

    def rate(name, state):
        return next((r.get("gb_per_s") for r in results if r["case"].startswith(name) and r["state"] == state), None)

    disk, copy = rate("fio", "cold"), rate(f"pread by {cores} threads, fresh", "cached")
    for r in results:
        base = disk if r["state"] == "cold" else copy
        if base and r.get("gb_per_s"):
            r["of_base"] = r["gb_per_s"] / base
            if r["case"].startswith("load()"):
                print(f"{r['case']} {r['state']}: {100 * r['of_base']:.0f} % of {'fio' if r['state'] == 'cold' else 'pread into a fresh buffer'}")
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps({"date": time.strftime("%Y-%m-%d"), "cores": cores, "repeat": args.repeat, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
