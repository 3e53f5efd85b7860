"""Peers' kernels of one call (data/peers.json) for layer_table.py: which part of a layer they stand beside, and the words that say so."""
import re

from tables import read_json

EXPERTS = {"experts gate_up": (4096, 7168), "experts down": (7168, 2048)}


class Peers:
    """Without a file all peers are the bench's own scaled ones. A part with one peer that the file lacks stays scaled as a whole."""

    def __init__(self, path=None):
        self.file, self.times, self.hit = None, {}, {}
        if not path:
            return
        self.file = read_json(path)
        for row in self.file["peers"]:
            self.times[self._key(row)] = row["us"]
            if "experts_hit" in row:
                self.hit[self._key(row)] = row["experts_hit"]

    @staticmethod
    def _key(row):
        if row["op"] == "mla_decode":
            return ("mla_decode", row["heads"], row["batch"], row["kv"])
        return (row["op"], row["n"], row["k"], row["tokens"] if row["op"] in ("masked", "contiguous") else row["m"])

    def dense(self, n, k, tokens):
        return self.times.get(("dense", n, k, tokens))

    def cublaslt(self, n, k, tokens):
        return self.times.get(("cublaslt", n, k, tokens))

    def of_part(self, part, tokens, kv=None, experts_hit=None):
        """(µs or 0, whether measured) beside a part as the bench names it. Experts: the routed ones for each expert hit, and the shared one's dense product."""
        for name, (n, k) in EXPERTS.items():
            if part["name"].startswith(name):
                key = ("masked" if kv else "contiguous", n, k, tokens)
                routed, shared = self.times.get(key), self.dense(n, k, tokens)
                if routed and shared:
                    return (routed / self.hit[key] * experts_hit if kv else routed) + shared, True
                return part["peer_us"], False
        if part["name"].startswith("MLA decode"):
            us = self.times.get(("mla_decode", 128, tokens, kv))
        else:
            shape = re.search(r"\((\d+), (\d+)\)", part["name"])
            us = shape and part["peer_us"] and self.dense(int(shape[1]), int(shape[2]), tokens)
        return (us, True) if us else (part["peer_us"], False)

    def words(self, data, parts):
        """parts: [(part, (µs, measured))] of the tables these words stand above."""
        scale = data["anchor_read_gbs"] / data["read_gbs"]
        scaled = sorted({self._kind(p["name"]) for p, (us, measured) in parts if us and not measured})
        measured = sorted({self._kind(p["name"]) for p, (us, measured) in parts if us and measured})
        text = []
        if measured:
            f = self.file
            same = f["date"] == data["date"] and f["device"] == data["device"] and abs(f["read_gbs"] / data["read_gbs"] - 1) < 0.01
            where = "in the same call" if same else f"on {f['date']}, {f['device']}, another call"
            versions = ", ".join(f"{name} {version}" for name, version in f["versions"].items())
            text.append(f"Peers' own kernels ran {where} (read bandwidth {f['read_gbs']:.0f} GB/s; {versions}; data/peers.json): {', '.join(measured)}.")
        if scaled:
            text.append(f"Peers scaled, not run: {', '.join(scaled)}: their own times on an H100 of {data['anchor_read_gbs']} GB/s, by {scale:.3f}.")
        return " ".join(text)

    @staticmethod
    def _kind(name):
        if name.startswith("experts"):
            return "experts (DeepGEMM, grouped, and dense for the shared expert)"
        if name.startswith("MLA"):
            return "MLA decode (FlashMLA)"
        return "attention (cuDNN)" if name.startswith("attention") else "linears (DeepGEMM)"
