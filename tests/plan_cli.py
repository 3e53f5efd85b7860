#!/usr/bin/env python3
"""example_plan as its user meets it: answers, exit statuses, errors that name the option, and a plan that example_chat then runs.

plan_cli.py --plan PROGRAM --configs DIR [--chat PROGRAM --model DIR]
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

args = argparse.ArgumentParser()
args.add_argument("--plan", required=True)
args.add_argument("--configs", required=True)
args.add_argument("--chat")
args.add_argument("--model")
args = args.parse_args()

failures = 0
H20 = "--nodes 2 --gpus 8 --gpu h20-96g --link roce400x8".split()


def check(condition, what):
    global failures
    if not condition:
        failures += 1
        print("not so:", what)


def run(*options, model="deepseek-v3.json"):
    base = ["--model", str(pathlib.Path(args.configs) / model)] if model else []
    done = subprocess.run([args.plan, *base, *map(str, options)], capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr


def answer(*options, model="deepseek-v3.json"):
    status, out, err = run(*options, "--json", model=model)
    check(err == "", f"{options}: stderr is {err!r}")
    return status, json.loads(out)


status, out, err = run("--help", model=None)
check(status == 0 and "--save-plan" in out and err == "", "--help lists the options on stdout")

status, out, _ = run(*H20)
check(status == 0 and out.startswith("Run tp=1,pp=1,dp=16,ep=16 on 2"), "the verdict comes first")

status, got = answer(*H20, "--plan", "tp=8,pp=2", "--overhead", 4)
check(status == 0 and got["feasible"], "TP8xPP2 fits on 2 x 8 H20")
plan = got["plans"][0]
check([s["layers"] for s in plan["stages"]] == [32, 29], "cut 32+29")
check(abs(plan["memory"]["weights_bytes_max"] / 42.7e9 - 1) < 0.005, "42.7 GB of weights")
check(abs(plan["memory"]["kv_tokens_per_dp_rank"] / 1.24e6 - 1) < 0.01, "1.24M tokens")
check(plan["predicted"]["tpot_ms"] > 0 and plan["predicted"]["parts"]["decode_ms"], "a prediction with its parts")

status, got = answer("--nodes", 1, "--gpus", 8, "--gpu", "h100-80g", "--plan", "tp=8")
check(status == 1 and not got["feasible"] and got["rejected"][0]["rule"] == "memory", "one node of H100 does not hold it: exit 1")
check(got["plans"][0]["predicted"] is None and got["advice"], "no prediction, but advice")

status, got = answer("--nodes", 4, "--gpu", "h100-80g", "--link", "ib400x8", "--plan", "tp=32")
check(status == 1 and got["rejected"][0]["rule"] == "fp8-block" and "576" in got["rejected"][0]["detail"], "TP32 in FP8: rule and number")

status, got = answer("--nodes-for-rate", "--gpu", "h100-80g", "--link", "ib400x8", "--rate", 20, "--nodes", 16)
check(status == 0 and got["fleet"]["nodes"] >= 2 and got["plans"][0]["predicted"]["requests_per_s"] >= 20, "nodes for a rate")

for options, words in [
    ([*H20, "--tpot", "fast"], ["--tpot", "fast"]),
    ([*H20, "--precision", "fp4"], ["--precision", "fp4", "int4"]),
    ([*H20, "--kv", "fp4"], ["--kv", "fp4"]),
    ([*H20, "--plan", "cp=2"], ["--plan", "cp=2"]),
    ([*H20, "--objective", "price"], ["--objective", "price"]),
    ([*H20, "--utilization", "1.5"], ["utilization", "1.5"]),
    ([*H20, "--overhead", "-3"], ["--overhead"]),
    ([*H20, "--tpot", "0"], ["tpot_ms is 0"]),
    ([*H20, "--ttft", "-5"], ["ttft_ms is -5"]),
    ([*H20, "--rate", "1e300"], ["rate is 1e+300"]),
    ([*H20, "--rate", "inf"], ["--rate"]),
    ([*H20, "--utilization", "nan"], ["--utilization"]),
    ([*H20, "--utilization", "0"], ["utilization is 0"]),
    ([*H20, "--input-len", "4611686018427387904"], ["input_len"]),
    ([*H20, "--redundant", "-1"], ["--redundant"]),
    ([*H20, "--top", "1000000"], ["top is 1000000"]),
    ([*H20, "--draft-acceptance", "1"], ["draft_acceptance", "prediction_layer"]),
    ([*H20, "--plan", "pp=2,layers=0+61"], ["--plan", "layers"]),
    ([*H20, "--curves", "/nonexistent.json"], ["--curves", "/nonexistent.json"]),
    ([*H20, "--experts-per-token", "0"], ["--experts-per-token"]),
    (["--nodes", "2", "--gpu", "h20-96g", "--link", "ibnanx8"], ["ibnanx8"]),
    (["--nodes", "1", "--gpus", "1048576", "--gpu", "h20-96g"], ["gpus_per_node is 1048576"]),
    (["--nodes", "131072", "--gpus", "8", "--gpu", "h20-96g", "--link", "roce400x8"], ["131072 · 8"]),
    ([*H20, "--frobnicate"], ["--frobnicate"]),
    ([*H20, "--input-len", "-5"], ["--input-len", "-5"]),
    ([*H20, "--cluster", "/nonexistent.json"], ["--cluster"]),
    (["--cluster", "/nonexistent.json"], ["--cluster", "/nonexistent.json"]),
    ([], ["--gpu"]),
    (["--nodes", "2", "--gpu", "h20-96g"], ["--link"]),
    (["--nodes", "2", "--gpu", "h21", "--link", "roce400x8"], ["h21", "h20-96g"]),
    (["--nodes", "1000000000", "--gpu", "h20-96g", "--link", "roce400x8"], ["--nodes", "1000000000"]),
    (["--gpu", "h20-96g", "--catalogue", "/nonexistent.json"], ["--catalogue"]),
]:
    status, out, err = run(*options)
    check(status == 2 and out == "" and all(word in err for word in words), f"{options}: exit {status}, stderr {err!r}, expected {words}")
status, _, err = run(*H20, "--model", "/nonexistent", model=None)
check(status == 2 and "--model" in err, "a model that is not there")

status, out, _ = run(*H20, "--utilization", "1e-9", "--plan", "tp=8,pp=2")
check(status == 1 and len(out) < 10000, "a budget of nothing: infeasible, in few words")

status, got = answer(*H20, "--utilization", "0.98")
check(status == 1 and got["rejected"][0]["rule"] == "utilization", "0.98 is refused by name")

with tempfile.TemporaryDirectory() as folder:
    # A model without config.json: what its tensors show, what is asked for, and what then comes out.
    shards = pathlib.Path(folder) / "shards"
    shards.mkdir()
    for shard in (pathlib.Path(args.configs).parent / "goldens" / "plans").glob("model*.safetensors*"):
        (shards / shard.name).write_bytes(shard.read_bytes())
    cpu = ["--nodes", 1, "--gpus", 2, "--gpu", "cpu", "--max-len", 64, "--input-len", 16, "--output-len", 16]
    status, _, err = run(*cpu, "--model", shards, model=None)
    check(status == 2 and "num_experts_per_tok" in err and "--experts-per-token" in err, f"what no shape shows is asked for: {err}")
    status, got = answer(*cpu, "--model", shards, "--experts-per-token", 4, model=None)
    check(status == 0 and any("without config.json" in note for note in got["fleet"]["notes"]), "a plan from headers, and what was assumed")
    status, _, err = run(*cpu, "--model", shards / "model-00002-of-000004.safetensors", model=None)
    check(status == 2 and "all shards" in err, f"one shard of four: {err}")
    (shards / "model-00002-of-000004.safetensors").write_bytes(b"\xff" * 64)
    status, _, err = run(*cpu, "--model", shards, model=None)
    check(status == 2 and "model-00002-of-000004.safetensors" in err, f"a broken header: {err}")
    curves = pathlib.Path(folder) / "curves.json"
    curves.write_text('{"format": "dsinfer-curves-1", "families": {"hopper": {"weight_stream": {"value": -1, "mark": "measured", "source": "x"}}}}')
    status, _, err = run(*H20, "--curves", curves)
    check(status == 2 and "--curves" in err and "weight_stream" in err, f"a curve of nothing: {err}")

    svg, saved = pathlib.Path(folder) / "front.svg", pathlib.Path(folder) / "plan.json"
    status, _, _ = run(*H20, "--svg", svg, "--save-plan", saved)
    check(status == 0 and svg.read_text().startswith("<svg") and svg.read_text().rstrip().endswith("</svg>"), "a picture")
    check(json.loads(saved.read_text())["dp"] == 16, "a saved plan")
    status, _, err = run(*H20, "--save-plan", "/nonexistent/plan.json")
    check(status == 2 and "--save-plan" in err, "a plan that cannot be written")
    if args.chat:
        for wanted in ("", "tp=1"):
            more = ["--plan", wanted] if wanted else []
            done = subprocess.run([args.plan, "--model", args.model, "--nodes", "1", "--gpus", "1", "--gpu", "cpu", "--max-len", "256", "--input-len", "32",
                                   "--output-len", "32", "--save-plan", str(saved), *more], capture_output=True, text=True, timeout=120)
            check(done.returncode == 0, f"a plan for the shipped model on a CPU: {done.stderr}{done.stdout[:300]}")
            chat = subprocess.run([args.chat, "--model", args.model, "--plan", str(saved), "--prompt", "Hello", "--max-tokens", "4", "--json"], capture_output=True, text=True, timeout=300)
            check(chat.returncode == 0 and len(json.loads(chat.stdout.splitlines()[0])["token_ids"]) > 0, f"example_chat runs it: {chat.stderr}")

print("example_plan:", "all as it should be" if failures == 0 else f"{failures} failures")
sys.exit(failures != 0)
