#!/usr/bin/env python3
"""Loading through the C interface as Python's ctypes meets it: a dry run, two ranks as threads, weights as arrays held against the file, a check.

capi_load.py --library libdsinfer.so --model DIR
"""
import argparse
import ctypes as c
import json
import pathlib
import struct
import threading

args = argparse.ArgumentParser()
args.add_argument("--library", required=True)
args.add_argument("--model", required=True)
args = args.parse_args()
lib = c.CDLL(args.library)
lib.dsinfer_last_error.restype = c.c_char_p
failures = 0


def check(condition, what):
    global failures
    if not condition:
        failures += 1
        print("not so:", what)


def ok(status, what):
    if status != 0:
        raise SystemExit(f"{what}: status {status}, {lib.dsinfer_last_error().decode()}")


class Progress(c.Structure):
    _fields_ = [("struct_size", c.c_uint64), ("bytes_done", c.c_int64), ("bytes_total", c.c_int64), ("all_bytes_done", c.c_int64), ("all_bytes_total", c.c_int64),
                ("seconds", c.c_double), ("bytes_per_second", c.c_double), ("seconds_left", c.c_double), ("rank_part", c.POINTER(c.c_double)),
                ("num_rank_parts", c.c_uint64), ("slowest_rank", c.c_int32), ("reserved", c.c_int32)]


Callback = c.CFUNCTYPE(c.c_int32, c.c_void_p, c.POINTER(Progress))


class Options(c.Structure):
    _fields_ = [("struct_size", c.c_uint64), ("shard_cache", c.c_char_p), ("download_cache", c.c_char_p), ("device", c.c_char_p), ("host_bytes", c.c_int64),
                ("weights", c.c_int32), ("method", c.c_int32), ("depth", c.c_int32), ("absorbed_bf16", c.c_int32), ("progress", Callback), ("progress_user", c.c_void_p)]


class Weight(c.Structure):
    _fields_ = [("name", c.c_char_p), ("dtype", c.c_char_p), ("shape", c.POINTER(c.c_int64)), ("stride", c.POINTER(c.c_int64)), ("num_dims", c.c_uint64),
                ("data", c.c_void_p)]


def text(call, *given):
    needed = c.c_uint64()
    ok(call(*given, None, c.c_uint64(0), c.byref(needed)), call.__name__)
    buffer = c.create_string_buffer(needed.value)
    ok(call(*given, buffer, needed, c.byref(needed)), call.__name__)
    return buffer.value.decode()


def stored(name):
    """Bytes and shape of a tensor, by our own reading of the file."""
    index = json.loads((model / "model.safetensors.index.json").read_text())["weight_map"]
    with open(model / index[name], "rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        entry = json.loads(file.read(size))[name]
        begin, end = entry["data_offsets"]
        file.seek(8 + size + begin)
        return file.read(end - begin), entry["shape"]


model = pathlib.Path(args.model)
path = str(model).encode()
config, plan, load_plan = c.c_void_p(), c.c_void_p(), c.c_void_p()
ok(lib.dsinfer_config_load(path, c.byref(config)), "config")
ok(lib.dsinfer_plan_solve(config, 2, b"tp=2", c.byref(plan)), "plan")
ok(lib.dsinfer_load_plan_create(path, plan, None, 0, c.byref(load_plan)), "load plan")
dry = json.loads(text(lib.dsinfer_load_plan_json, load_plan, c.c_int32(0)))
check(dry["seconds_estimate"] is None and dry["read_amplification"] <= 1.05 and len(dry["ranks"]) == 2, "the dry run's JSON")
lib.dsinfer_load_plan_destroy(load_plan)

worlds = (c.c_void_p * 2)()
ok(lib.dsinfer_world_create_threads(2, worlds), "worlds")
weights, statuses, seen = [c.c_void_p(), c.c_void_p()], [None, None], []


@Callback
def progress(_, told):
    seen.append(told[0].all_bytes_done)
    return 0


def load(rank):
    options = Options(struct_size=c.sizeof(Options), progress=progress if rank == 0 else Callback())
    statuses[rank] = lib.dsinfer_weights_load(c.c_void_p(worlds[rank]), path, plan, c.byref(options), c.byref(weights[rank]))


threads = [threading.Thread(target=load, args=(rank,)) for rank in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
check(statuses == [0, 0], f"both ranks load: {statuses}")
check(seen and seen == sorted(seen), "progress grows")

halves = []
for rank in range(2):
    report = json.loads(text(lib.dsinfer_weights_report_json, weights[rank]))
    check(report["bytes_read"] >= dry["ranks"][rank]["bytes_read"], f"rank {rank} read what the dry run said: {report}")
    count = c.c_uint64()
    ok(lib.dsinfer_weights_tensors(weights[rank], None, c.c_uint64(c.sizeof(Weight)), c.c_uint64(0), c.byref(count)), "count")
    tensors = (Weight * count.value)()
    ok(lib.dsinfer_weights_tensors(weights[rank], tensors, c.c_uint64(c.sizeof(Weight)), count, c.byref(count)), "tensors")
    halves.append({t.name.decode(): t for t in tensors})


def held(tensor):
    shape = [tensor.shape[d] for d in range(tensor.num_dims)]
    size = {b"F32": 4, b"BF16": 2, b"F16": 2, b"F8_E4M3": 1, b"U8": 1}[tensor.dtype]
    for dim in shape:
        size *= dim
    return c.string_at(tensor.data, size), shape


norms = [held(half["model.norm.weight"]) for half in halves]
check(norms[0] == norms[1] and any(norms[0][0]) and norms[0][1] == stored("model.norm.weight")[1], "a replicated tensor is the same on both ranks, one of which did not read it")
embedding, shape = stored("model.embed_tokens.weight")
parts = [held(half["model.embed_tokens.weight"]) for half in halves]
check(parts[0][0] + parts[1][0] == embedding and parts[0][1][0] + parts[1][1][0] == shape[0], "the cut embedding is the file's")

verification, world = c.c_void_p(), c.c_void_p()
ok(lib.dsinfer_world_create_single(c.byref(world)), "world")
ok(lib.dsinfer_checkpoint_verify(world, path, 1, None, Callback(), None, c.byref(verification)), "verify")
report = json.loads(text(lib.dsinfer_verification_json, verification))
check(report["good"] and report["content_hash"] and lib.dsinfer_verification_good(verification) == 1, f"a good checkpoint: {report}")
lib.dsinfer_verification_destroy(verification)
lib.dsinfer_world_destroy(world)
for rank in range(2):
    lib.dsinfer_weights_destroy(weights[rank])
    lib.dsinfer_world_destroy(c.c_void_p(worlds[rank]))
lib.dsinfer_plan_destroy(plan)
lib.dsinfer_config_destroy(config)
print(f"{failures} failures")
raise SystemExit(1 if failures else 0)
