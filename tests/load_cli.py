#!/usr/bin/env python3
"""example_load as its user meets it: the dry run's JSON, loads by threads and by mpirun, shards, checks, bars in a terminal, lines in a log, exit statuses.

load_cli.py --program example_load --model DIR [--mpirun PATH]
"""
import argparse
import fcntl
import http.server
import json
import os
import pathlib
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time

args = argparse.ArgumentParser()
args.add_argument("--program", required=True)
args.add_argument("--model", required=True)
args.add_argument("--mpirun")
args = args.parse_args()
model = pathlib.Path(args.model)
env = dict(os.environ, LC_ALL="C.UTF-8", OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMPI_MCA_rmaps_base_oversubscribe="1",
           OMPI_MCA_mpi_yield_when_idle="1", OMPI_MCA_hwloc_base_binding_policy="none")
failures = 0


def check(condition, what):
    global failures
    if not condition:
        failures += 1
        print("not so:", what, flush=True)


def run(*options, folder=model, launcher=()):
    done = subprocess.run([*launcher, args.program, str(folder), *map(str, options)], capture_output=True, text=True, timeout=300, env=env)
    return done.returncode, done.stdout, done.stderr


def answer(*options, folder=model, launcher=()):
    status, out, err = run(*options, "--json", folder=folder, launcher=launcher)
    check(status == 0, f"{options}: status {status}, {err}")
    return json.loads(out) if status == 0 else {}


def refused(status, words, *options, folder=model):
    got, out, err = run(*options, folder=folder)
    check(got == status and out == "" and err.startswith("example_load: ") and err.count("\n") == 1 and words in err, f"{options}: status {got}, {err!r}")


def dry_runs():
    got = answer("--dry-run", "--plan", "tp=2,pp=2,dp=4,ep=8", "--probe", 0.2)
    ranks = got["ranks"]
    check([r["rank"] for r in ranks] == list(range(16)), "all ranks in order")
    check(sum(r["bytes_read"] for r in ranks) == got["bytes_read"] and 1 <= got["read_amplification"] <= 1.05, "read once")
    check(all(r["device_bytes"] > 0 and 0 < r["host_peak_bytes"] <= 256 << 20 for r in ranks), "memory of every rank")
    check(got["seconds_estimate"] > 0, "an estimate")
    apart = answer("--dry-run", "--plan", "tp=2,pp=2,dp=4,ep=8", "--ranks-per-node", 8, "--probe", 0)
    check({r["node"] for r in apart["ranks"]} == {0, 1} and apart["seconds_estimate"] is None and "--probe 0" in apart["seconds_estimate_reason"], "nodes; no probe")
    one = answer("--dry-run", "--plan", "tp=2,pp=2,dp=4,ep=8", "--rank", 5, "--probe", 0)
    check([r["rank"] for r in one["ranks"]] == [5] and one["bytes_read"] == ranks[5]["bytes_read"], "one rank alone")
    held = answer("--dry-run", "--format", "stored", "--threads", 4, "--probe", 0)
    check(len(held["ranks"]) == 4, "as many ranks as --threads asks for")
    status, out, err = run("--dry-run", "--probe", "0.1")
    check(status == 0 and "amplification" in out and err == "", "a dry run for a person")


def headers_alone(folder):
    for file in model.iterdir():
        if file.suffix == ".safetensors":
            with open(file, "rb") as source:
                size = struct.unpack("<Q", source.read(8))[0]
                source.seek(0)
                (folder / file.name).write_bytes(source.read(8 + size))
        elif file.suffix == ".json":
            shutil.copy(file, folder)
    got = answer("--dry-run", "--plan", "tp=2", folder=folder)
    check(got["seconds_estimate"] is None and "header" in got["seconds_estimate_reason"] and got["files_cut_short"] > 0, "headers alone: planned, no estimate")
    refused(1, ".safetensors", folder=folder)


def made_up(folder):
    shutil.copy(model / "config.json", folder)
    got = answer("--dry-run", "--dummy-weights", 7, "--plan", "tp=2", folder=folder)
    check(got["seconds_estimate"] is None and "dummy" in got["seconds_estimate_reason"] and got["bytes_read"] > 0, "dummy weights: planned, no estimate")
    read = answer("--dummy-weights", 7, "--threads", 2, "--plan", "tp=2", folder=folder)
    check(read["bytes_read"] == got["bytes_read"], "dummy weights: loaded as planned")
    refused(2, "--dummy-weights", "--dummy-weights", "seven", folder=folder)


def wrong_use():
    refused(2, "--bogus", "--bogus")
    refused(2, "two", "two")
    refused(2, "banana", "--plan", "banana=3")
    refused(2, "--format", "--format", "int3")
    refused(2, "one at a time", "--dry-run", "--verify", "quick")
    refused(2, "--verify", "--verify", "deep")
    refused(2, "ranks 0 to 1", "--dry-run", "--plan", "tp=2", "--rank", 9)
    refused(2, "--rank", "--rank", 0)
    refused(1, "plan refused", "--plan", "tp=3")
    refused(1, "start 2 ranks", "--plan", "tp=2")
    refused(1, "/nonexistent/model", folder="/nonexistent/model")
    status, out, err = run("--help")
    check(status == 0 and "--dry-run" in out and "MODEL" in out and err == "", "--help")


def loads(folder):
    got = answer("--threads", 4, "--plan", "tp=2,dp=2", "--method", "pread")
    check(len(got["ranks"]) == 4 and got["read_amplification"] == 1, "four threads")
    check(got["bytes_read"] == sum(r["bytes_read"] for r in got["ranks"]) and all(r["device_bytes"] > 0 and r["host_peak_bytes"] > 0 for r in got["ranks"]), "the report's sums")
    mapped = answer("--threads", 4, "--plan", "tp=2,dp=2", "--method", "mmap")
    check(mapped["bytes_read"] < got["bytes_read"] / 20 and all(r["bytes_mapped"] > 0 for r in mapped["ranks"]), "mapped, not read")
    shards = folder / "shards"
    answer("--threads", 2, "--plan", "tp=2", "--save-shards", shards)
    again = answer("--threads", 2, "--plan", "tp=2", "--shards", shards)
    check(all(r["from_shard_cache"] for r in again["ranks"]), "loaded from its own shards")
    status, out, err = run("--threads", 2, "--plan", "tp=2")
    check(status == 0 and "read amplification" in out, "a report for a person")
    check("\x1b" not in err and "\r" not in err and "loading 100 %" in err, f"plain lines in a log: {err!r}")


def checks(folder):
    check(answer("--verify", "quick")["good"] is True, "quick")
    hashes = folder / "hashes"
    first = answer("--verify", "full", "--hashes", hashes, "--threads", 2)
    check(first["good"] and first["content_hash"] and first["bytes_read"] > 1e6, "full")
    spoilt = folder / "spoilt"
    shutil.copytree(model, spoilt, ignore=shutil.ignore_patterns("training"))
    file = sorted(spoilt.glob("*.safetensors"))[1]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    status, out, _ = run("--verify", "full", "--hashes", hashes, "--json", folder=spoilt)
    report = json.loads(out)
    check(status == 1 and not report["good"] and any(file.name in p for p in report["problems"]), "one flipped bit is found by the hashes of before")


class Screen:
    """What a terminal of so many columns shows: enough of one for \\r, \\n, ESC[nA, ESC[K and ESC[J."""

    def __init__(self):
        self.lines, self.row, self.column, self.widest = [""], 0, 0, 0

    def feed(self, text):
        for piece in re.findall(r"\x1b\[(?:\d*)[A-Z]|[\r\n]|[^\x1b\r\n]+", text):
            if piece == "\n":
                self.row += 1
                if self.row == len(self.lines):
                    self.lines.append("")
            elif piece == "\r":
                self.column = 0
            elif piece.endswith("A") and piece[0] == "\x1b":
                self.row -= int(piece[2:-1])
            elif piece == "\x1b[K":
                self.lines[self.row] = self.lines[self.row][: self.column]
            elif piece == "\x1b[J":
                del self.lines[self.row + 1:]
                self.lines[self.row] = self.lines[self.row][: self.column]
            else:
                line = self.lines[self.row]
                self.lines[self.row] = line[: self.column] + piece + line[self.column + len(piece):]
                self.column += len(piece)
                self.widest = max(self.widest, self.column)


def in_terminal(columns, *options, locale="C.UTF-8", rows=40):
    """Standard error in a terminal of that size; the status and the screen at the end."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    process = subprocess.Popen([args.program, str(model), *map(str, options)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=follower, env=dict(env, LC_ALL=locale))
    os.close(follower)
    data = b""
    while True:
        try:
            piece = os.read(leader, 65536)
        except OSError:
            break
        if not piece:
            break
        data += piece
    os.close(leader)
    screen = Screen()
    screen.feed(data.decode().replace("\r\n", "\n\r"))
    return process.wait(timeout=60), screen


def bars():
    for columns in (80, 120):
        status, screen = in_terminal(columns, "--threads", 16, "--plan", "tp=2,pp=2,dp=4,ep=8")
        lines = [line for line in screen.lines if line.strip()]
        check(status == 0 and len(lines) == 18, f"16 bars, all, the figures: {lines}")
        check(columns - 12 < screen.widest <= columns, f"{screen.widest} of {columns} columns")
        check(all("█" in line and "100 %" in line for line in lines[:17]) and "GB/s" in lines[17], f"full bars at the end: {lines}")
    status, screen = in_terminal(80, "--threads", 32, "--plan", "tp=2,pp=2,dp=8", locale="C")
    lines = [line for line in screen.lines if line.strip()]
    check(status == 0 and len(lines) == 10 and all("#" in line for line in lines[:9]), f"of 32 ranks the slowest 8, in ASCII: {lines}")
    status, screen = in_terminal(80, "--verify", "full")
    check(status == 0 and any("all" in line and "█" in line for line in screen.lines), "a check draws too")


class SlowFolder(http.server.SimpleHTTPRequestHandler):
    """The model over HTTP; ranges of weights come so slowly that a load never ends by itself."""
    protocol_version = "HTTP/1.1"

    def __init__(self, *given):
        super().__init__(*given, directory=str(model))

    def log_message(self, *_):
        pass

    def do_GET(self):
        path = model / self.path.lstrip("/").split("?")[0]
        if not path.is_file():
            return self.send_error(404)
        data, size = path.read_bytes(), path.stat().st_size
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        begin, end = (int(wanted[1]), min(int(wanted[2] or size - 1) + 1, size)) if wanted else (0, size)
        if wanted and begin > 1 << 20:
            time.sleep(30)
        self.send_response(206 if wanted else 200)
        self.send_header("ETag", '"1"')
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(end - begin))
        if wanted:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{size}")
        self.end_headers()
        self.wfile.write(data[begin:end])


def interrupted():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), SlowFolder)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    process = subprocess.Popen([args.program, url, "--threads", "2", "--plan", "tp=2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    time.sleep(3)
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    if "local folders only" in err:
        return  # without libcurl
    check(process.returncode == 1 and out == "" and err.endswith("example_load: cancelled\n"), f"Ctrl-C: {process.returncode}, {out!r}, {err!r}")


def under_mpirun():
    launcher = [args.mpirun, "-np", "16"]
    got = answer("--plan", "tp=2,pp=2,dp=4,ep=8", launcher=launcher)
    check(len(got["ranks"]) == 16 and got["read_amplification"] == 1, "16 processes")
    dry = answer("--dry-run", "--probe", 0, launcher=launcher)
    check(len(dry["ranks"]) == 16, "a dry run under mpirun: once, for its ranks")
    status, out, err = run("--plan", "tp=3", launcher=launcher)
    check(status == 1 and out == "" and err.count("example_load: ") == 1, f"one voice: {err!r}")


with tempfile.TemporaryDirectory() as scratch:
    scratch = pathlib.Path(scratch)
    for name in ("headers", "dummy", "loads", "checks"):
        (scratch / name).mkdir()
    dry_runs()
    headers_alone(scratch / "headers")
    made_up(scratch / "dummy")
    wrong_use()
    loads(scratch / "loads")
    checks(scratch / "checks")
    bars()
    interrupted()
    if args.mpirun:
        under_mpirun()
print(f"{failures} failures")
sys.exit(1 if failures else 0)
