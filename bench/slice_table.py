#!/usr/bin/env python3
"""Writes the tables of bench/README.md between its slice marks from the JSON of bench_slice: slice_table.py data/slice.json README.md"""
import sys

from tables import read_json, us, write_tables

HOST = ("schedule", "copy_in", "launch", "head_launch", "choose", "token")


def tables(data):
    load = data.get("load")
    batches = ",".join(str(b) for b in sorted({case["batch"] for case in data["cases"]}))
    yield (f"{data['date']}, {data['device']}. Command: `bench_slice --batches {batches} --out bench/data/slice.json`. {data['layers']} layers of DeepSeek-V3 (the first dense, all 256 experts in the others), "
           f"made-up weights, prompts of {data['kv']} random tokens, decode steps through `Engine` with graphs, medians. The parts were timed alone in the same run, as graphs where the "
           "step has them in one: dense and MoE layers in a chain over a filled cache, the head with its norm, the survey of the logits by which tokens are chosen."
           + (f" Loading: {load['bytes'] * 1e-9:.1f} GB in {load['seconds']:.1f} s, {load['gb_per_s']:.1f} GB/s"
              + (f", {load['of_link']:.2f} of the {load['link_gb_per_s']:.1f} GB/s of copies from pinned memory." if "of_link" in load else ".") if load else ""))
    yield ""
    yield "| batch | sampling | step µs | parts, summed | step / sum | embed | dense layer | MoE layers | head | survey |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for case in data["cases"]:
        p = case.get("parts_us")
        if not p:
            continue
        survey = p["survey_greedy" if case["sampling"] == "greedy" else "survey_drawn"]
        yield (f"| {case['batch']} | {case['sampling']} | {us(case['step_us'])} | {us(case['sum_us'])} | {case['step_over_sum']:.3f} | {us(p['embed'])} | {us(p['dense'])} | {us(p['moe'])} | "
               f"{us(p['head'])} | {us(survey)} |")
    yield ""
    yield ("What the host does in a step, in µs (launches of layers and head pass while the device works on what came before them; what the device waits for are the others); the rest of the "
           "step it waits for the answer.")
    yield ""
    yield "| batch | sampling | schedule and announce | copy in, embed | launch layers | launch head | choose | token back to its request | waits |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for case in data["cases"]:
        host = case["host_us"]
        yield f"| {case['batch']} | {case['sampling']} | " + " | ".join(us(host[name]) for name in HOST) + f" | {us(host['answer'])} |"


write_tables(sys.argv[2], "slice", tables(read_json(sys.argv[1])))
