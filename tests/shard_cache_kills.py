"""Shard caches under kills: a program that saves and loads them is killed, or cancelled by its callback, at random moments. Whatever happened, the next start
gives the same weights, files are whole or absent, and nothing is left lying about after a save that ends.

    python3 shard_cache_kills.py --worker build/dev/tests/shard_cache_worker --model examples/mini [--times 200] [--seed 1]
"""
import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

RANKS = 4


class Failed(Exception):
    pass


class Kills:
    def __init__(self, args, folder):
        self.args = args
        self.cache = os.path.join(folder, "cache")
        self.random = random.Random(args.seed)
        self.killed = self.ended = self.cancelled = self.from_cache = self.from_files = 0

    def command(self, mode, *more):
        return [self.args.worker, self.args.model, str(RANKS), mode, self.cache, *map(str, more)]

    def run(self, mode, *more):
        done = subprocess.run(self.command(mode, *more), capture_output=True, text=True, timeout=600)
        return done.returncode, done.stdout.strip() + done.stderr.strip()

    def sound(self, mode, *more):
        code, text = self.run(mode, *more)
        if code != 0:
            raise Failed(f"{mode} ended with {code}: {text}")
        return text.split()

    def files(self):
        return sorted(os.listdir(self.cache)) if os.path.isdir(self.cache) else []

    def check(self, what):
        """The next start works and gives the same weights."""
        digest, ranks = self.sound("load")
        whole = [name for name in self.files() if name.endswith(".safetensors")]
        if digest != self.digest:
            raise Failed(f"after {what} the weights differ: {digest}, expected {self.digest}")
        if int(ranks) != (RANKS if len(whole) == RANKS else 0):
            raise Failed(f"after {what} {ranks} ranks read the cache, {len(whole)} files are there")
        self.from_cache += int(ranks) > 0
        self.from_files += int(ranks) == 0

    def kill(self, mode, seconds):
        process = subprocess.Popen(self.command(mode), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(self.random.uniform(0, 1.1 * seconds))
        process.send_signal(signal.SIGKILL)
        if process.wait() == -signal.SIGKILL:
            self.killed += 1
        else:
            self.ended += 1

    def cancel(self, mode, most):
        code, text = self.run(mode, self.random.randint(1, most))
        if code not in (0, 3):
            raise Failed(f"{mode}, cancelled, ended with {code}: {text}")
        self.cancelled += code == 3

    def all(self):
        self.digest, _ = self.sound("none")
        started = time.monotonic()
        self.sound("save")
        seconds = time.monotonic() - started
        self.check("a save")
        names = self.files()
        size = sum(os.path.getsize(os.path.join(self.cache, name)) for name in names) // RANKS
        for i in range(self.args.times):
            if self.random.random() < 0.7:  # nothing there, or part of it
                keep = self.random.randint(0, RANKS - 1) if self.random.random() < 0.5 else 0
                for name in [n for n in self.files() if n.endswith(".safetensors")][keep:]:
                    os.remove(os.path.join(self.cache, name))
            mode = "save" if self.random.random() < 0.8 else "load"
            if self.random.random() < 0.7:
                self.kill(mode, seconds)
            else:
                self.cancel(mode, 2 * size)
            self.check(f"attempt {i} ({mode})")
            if i % 10 == 9:
                self.sound("save")
                if self.files() != names:
                    raise Failed(f"a save left {self.files()}, expected {names}")
        self.sound("save")
        self.check("the last save")
        if self.files() != names:
            raise Failed(f"the last save left {self.files()}, expected {names}")
        print(f"{self.args.times} attempts: {self.killed} killed, {self.ended} ended before, {self.cancelled} cancelled; "
              f"the next start read the cache {self.from_cache} times and the model {self.from_files} times; a save takes {seconds:.2f} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worker", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="dsinfer_kills_")
    try:
        Kills(args, folder).all()
    except (Failed, subprocess.TimeoutExpired) as failure:
        print(f"seed {args.seed}: {failure}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
