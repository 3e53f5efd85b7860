#!/usr/bin/env python3
"""Writes the tables of bench/README.md between its mla marks: mla_table.py data/mla.json README.md
Rows of the JSON: {"heads", "batch", "kv", "us", "flashmla_us"}, both timed in turns in one call."""
import sys

from tables import read_json, us, write_tables


def tables(data):
    yield f"{data['date']}, {data['device']}, FlashMLA {data['flashmla']}. µs (FlashMLA's; its time over ours). {data['how']}"
    for heads in sorted({r["heads"] for r in data["rows"]}, reverse=True):
        rows = {(r["kv"], r["batch"]): r for r in data["rows"] if r["heads"] == heads}
        batches = sorted({b for _, b in rows})
        yield ""
        yield f"| {heads} heads, kv | " + " | ".join(f"batch {b}" for b in batches) + " |"
        yield "|---" * (len(batches) + 1) + "|"
        for kv in sorted({k for k, _ in rows}):
            cells = [f"{us(r['us'])} ({us(r['flashmla_us'])}; {r['flashmla_us'] / r['us']:.2f})" for r in (rows[kv, b] for b in batches)]
            yield f"| {kv} | " + " | ".join(cells) + " |"


write_tables(sys.argv[2], "mla", tables(read_json(sys.argv[1])))
