#!/usr/bin/env python3
"""Writes the tables of bench/README.md between its layer marks from the JSON of bench_layer:
layer_table.py data/layer.json README.md [--peers data/peers.json]
A JSON without decode steps (bench_layer --prefill) leaves their tables as they are, one without prefill that one's. Peers that the file of
--peers has were measured; the others are scaled, and the words above each table say which."""
import sys

from layer_peers import Peers
from tables import read_json, us, write_tables


def or_dash(value):
    return us(value) if value else "–"


def tables(data, peers):
    def beside(case):
        return [peers.of_part(p, case["batch"], case["kv"], case["experts_hit"]) for p in case["parts"]]

    driver, runtime = (f"{v // 1000}.{v % 1000 // 10}" for v in (data["cuda_driver"], data["cuda_runtime"]))
    compared = [pair for case in data["cases"] for pair in zip(case["parts"], beside(case))]
    yield (f"{data['date']}, {data['device']}, CUDA runtime {runtime}, driver for CUDA {driver}; read bandwidth of this run {data['read_gbs']} GB/s. Command: "
           "`bench_layer --out bench/data/layer.json`. A graph of layers in a chain, every call a programmatic dependent of the one before; medians. "
           "Floor: each weight, scale, cache row and activation once at that bandwidth, or bf16 operations at 795 TFLOP/s. "
           f"{peers.words(data, compared)} Routed experts' peers are per expert hit; a blank is a stage that was not timed for them, so their sum is a layer without it.")
    yield ""
    yield "| layer | batch | kv | experts hit | µs a layer | parts alone, summed | floor | floor / layer | peers' kernels, those that exist | graph = eager |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for case in data["cases"]:
        parts = case["parts"]
        hit = f"{case['experts_hit']:.0f}" if case["layer"] == "moe" else "–"
        yield (f"| {case['layer']} | {case['batch']} | {case['kv']} | {hit} | {us(case['us'])} | {us(sum(p['us'] for p in parts))} | {us(case['floor_us'])} | "
               f"{case['floor_us'] / case['us']:.2f} | {us(sum(time for time, _ in beside(case)))} | {'yes' if case['graph_equals_eager'] else 'NO'} |")
    for layer in ("moe", "dense"):
        cases = [c for c in data["cases"] if c["layer"] == layer and c["kv"] == 1024]
        yield ""
        yield f"Parts of the {layer} layer at kv 1024, each alone: µs (floor; peer)."
        yield ""
        yield "| part | " + " | ".join(f"batch {c['batch']}" for c in cases) + " |"
        yield "|---|" + "---|" * len(cases)
        for i, part in enumerate(cases[0]["parts"]):
            cells = [f"{us(c['parts'][i]['us'])} ({us(c['parts'][i]['floor_us'])}; {or_dash(beside(c)[i][0])})" for c in cases]
            yield f"| {part['name']} | " + " | ".join(cells) + " |"
    attention = [(c, p, peer) for c in data["cases"] if c["layer"] == "moe" for p, peer in zip(c["parts"], beside(c)) if p["name"].startswith("MLA")]
    yield ""
    yield f"MLA decode, 128 heads: µs (floor; FlashMLA{'' if all(measured for _, _, (_, measured) in attention) else ' scaled'})."
    yield ""
    batches = sorted({c["batch"] for c, _, _ in attention})
    yield "| kv | " + " | ".join(f"batch {b}" for b in batches) + " |"
    yield "|---|" + "---|" * len(batches)
    for kv in sorted({c["kv"] for c, _, _ in attention}):
        row = {c["batch"]: (p, peer) for c, p, (peer, _) in attention if c["kv"] == kv}
        yield f"| {kv} | " + " | ".join(f"{us(row[b][0]['us'])} ({us(row[b][0]['floor_us'])}; {us(row[b][1])})" for b in batches) + " |"
    if data.get("linears"):
        yield from linears_table(data["linears"], peers)


def linears_table(linears, peers):
    tokens = sorted({row["tokens"] for row in linears})
    yield ""
    yield ("Dense FP8 linears alone, by tokens: µs (floor; DeepGEMM; cuBLASLt's block-scaled product, 4 tokens in place of 1), where they ran. (4096, 7168) and "
           "(7168, 2048) are the shared expert's, which the layer takes together with the routed ones; (36864, 7168) has SwiGLU joined, the peers' have not.")
    yield ""
    yield "| (N, K) | " + " | ".join(str(t) for t in tokens) + " |"
    yield "|---|" + "---|" * len(tokens)
    for shape in dict.fromkeys((row["n"], row["k"]) for row in linears):
        at = {row["tokens"]: row for row in linears if (row["n"], row["k"]) == shape}
        cells = [f"{us(at[t]['us'])} ({us(at[t]['floor_us'])}; {or_dash(peers.dense(*shape, t))}; {or_dash(peers.cublaslt(*shape, t))})" for t in tokens]
        yield f"| {shape} | " + " | ".join(cells) + " |"


def prefill_tables(data, peers):
    tokens = data["prefill"][0]["tokens"]
    compared = [(p, peers.of_part(p, tokens)) for case in data["prefill"] for p in case["parts"]]
    yield (f"{data['date']}, {data['device']}, read bandwidth of this run {data['read_gbs']} GB/s: one chunk of {tokens} tokens, routing drawn at random. Command: "
           "`bench_layer --prefill --out FILE.json`. Floor: bytes at that bandwidth, or operations at 1460 (FP8) and 795 TFLOP/s (bf16). "
           f"DeepGEMM's experts are grouped contiguous, rows padded to 128. {peers.words(data, compared)}")
    yield ""
    yield "| layer | ms | parts alone, summed | floor | floor / layer | graph = eager |"
    yield "|---|---|---|---|---|---|"
    for case in data["prefill"]:
        yield (f"| {case['layer']} | {case['us'] / 1e3:.2f} | {sum(p['us'] for p in case['parts']) / 1e3:.2f} | {case['floor_us'] / 1e3:.2f} | "
               f"{case['floor_us'] / case['us']:.2f} | {'yes' if case['graph_equals_eager'] else 'NO'} |")
    for case in data["prefill"]:
        yield ""
        yield f"| part of the {case['layer']} layer | µs | floor | peer | floor / part |"
        yield "|---|---|---|---|---|"
        for p in case["parts"]:
            yield f"| {p['name']} | {us(p['us'])} | {us(p['floor_us'])} | {or_dash(peers.of_part(p, tokens)[0])} | {p['floor_us'] / p['us']:.2f} |"


def main():
    arguments = sys.argv[1:]
    peers = Peers()
    if "--peers" in arguments:
        at = arguments.index("--peers")
        peers = Peers(arguments[at + 1])
        del arguments[at:at + 2]
    data = read_json(arguments[0])
    if data["cases"]:
        write_tables(arguments[1], "layer", tables(data, peers))
    if data.get("prefill"):
        write_tables(arguments[1], "layer prefill", prefill_tables(data, peers))


main()
