"""Tiny random checkpoints in the published layout, and what `transformers` and the float64 oracle say about them.

    python -m venv v && v/bin/pip install -r requirements.txt && OMP_NUM_THREADS=1 v/bin/python make_goldens.py [NAME …]

Writes one folder a configuration beside this file. Weights are drawn in float64, rounded to the stored dtype, written, and read back, so that
every reader sees the same numbers. The token ids are chosen row by row so that no router of any layer decides by less than MARGIN; logits
can then be compared without regard to near ties. The golden is the output of `transformers` in float32 (eager attention, eager experts,
one thread); it must agree with the oracle, else this program stops.

golden.safetensors: {a,b}.ids [n] i32; {a,b}.rows [r] i32, the rows whose logits are stored; {a,b}.logits [r, vocab] f32; for FP8 checkpoints
also w8a8.ids/.rows/.logits (activations quantised, all rows expanded), and w8a8.decode_ids/.decode_logits: rows after the first `prompt_length` of w8a8.ids
in the absorbed form, whose two kv_b products use the decoded weight (from the oracle). golden.json: versions, seed, agreement, greedy continuation and gaps.
"""
import json, pathlib, re, shutil, sys, tempfile
import numpy as np
import safetensors.numpy, safetensors.torch, torch, transformers
import int4
from oracle import Oracle, e4m3

HERE = pathlib.Path(__file__).parent
MARGIN = 1e-3       # float32 routers agree well below this
CLEARANCE = 5e-7    # the same for rounding activations to E4M3, as a part of a tile's largest value
GAP = 1e-3          # least gap of the two best logits in the greedy continuation
BLOCK = 128
QUANTISED = ("q_proj", "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

# ---------------------------------------------------------------- configurations


def yarn(**over):
    return {"type": "yarn", "factor": 4, "original_max_position_embeddings": 64, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0} | over


V3 = {
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "attention_bias": False, "attention_dropout": 0.0,
    "bos_token_id": 0, "eos_token_id": 1, "ep_size": 1, "first_k_dense_replace": 1, "hidden_act": "silu", "hidden_size": 64,
    "initializer_range": 0.02, "intermediate_size": 80, "kv_lora_rank": 32, "max_position_embeddings": 256, "moe_intermediate_size": 16,
    "moe_layer_freq": 1, "n_group": 4, "n_routed_experts": 16, "n_shared_experts": 1, "norm_topk_prob": True, "num_attention_heads": 4,
    "num_experts_per_tok": 4, "num_hidden_layers": 3, "num_key_value_heads": 4, "num_nextn_predict_layers": 0, "pretraining_tp": 1,
    "q_lora_rank": 24, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16, "rms_norm_eps": 1e-06, "rope_scaling": yarn(), "rope_theta": 10000,
    "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "tie_word_embeddings": False, "topk_group": 2, "topk_method": "noaux_tc",
    "torch_dtype": "bfloat16", "use_cache": True, "v_head_dim": 20, "vocab_size": 160,
}
V2 = V3 | {"architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", "scoring_func": "softmax", "norm_topk_prob": False, "n_shared_experts": 2,
           "aux_loss_alpha": 0.001, "seq_aux": True}
del V2["num_nextn_predict_layers"]
FP8 = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK]}

# name → (base, changes, how it is made). shards: largest shard in bytes, 0 = one file without index.
CONFIGS = {
    "v3": (V3, {}, dict(shards=100_000)),
    "v3-noyarn": (V3, dict(rope_scaling=None), dict(shards=0)),
    "v3-dense2": (V3, dict(first_k_dense_replace=2, num_hidden_layers=4), {}),
    "v3-allgroups": (V3, dict(topk_group=4), {}),
    "v3-group-tight": (V3, dict(topk_group=1), {}),
    "v3-negbias": (V3, dict(), dict(bias_shift=-3.0)),
    "v3-shared2": (V3, dict(n_shared_experts=2), {}),
    "v3-f32": (V3, dict(n_routed_experts=8, num_experts_per_tok=3, moe_intermediate_size=8, torch_dtype="float32"), dict(dtype="f32")),
    "v3-respelled": (V3, dict(n_routed_experts=8, num_experts_per_tok=3, rope_scaling=yarn(factor=2.5, mscale=0.8, mscale_all_dim=0.5), max_position_embeddings=160), dict(respelled=True)),
    "moonlight": (V3, dict(q_lora_rank=None, n_group=1, topk_group=1, rope_scaling=None, rms_norm_eps=1e-5, n_shared_experts=2, routed_scaling_factor=2.446,
                           rope_theta=50000.0), dict(latent_scale=0.03)),
    "k2": (V3, dict(model_type="kimi_k2", n_group=1, topk_group=1, routed_scaling_factor=2.827, rope_theta=50000.0, rope_scaling=yarn(beta_fast=1.0, beta_slow=1.0)), {}),
    "v2-lite": (V2, dict(q_lora_rank=None, topk_method="greedy", n_group=1, topk_group=1, routed_scaling_factor=1.0, rope_scaling=yarn(mscale=0.707, mscale_all_dim=0.707)), {}),
    "v2": (V2, dict(topk_method="group_limited_greedy", routed_scaling_factor=16.0), dict(dtype="f16")),
    "edge": (V3, dict(hidden_size=105, intermediate_size=75, moe_intermediate_size=37, q_lora_rank=27, kv_lora_rank=41, num_attention_heads=3, num_key_value_heads=3,
                      qk_nope_head_dim=13, qk_rope_head_dim=6, v_head_dim=11, vocab_size=131, n_routed_experts=9, n_group=3, num_experts_per_tok=3), {}),
    "edge-fp8": (V3, dict(hidden_size=200, intermediate_size=300, moe_intermediate_size=72, kv_lora_rank=40, q_lora_rank=136, n_routed_experts=8, n_group=2, topk_group=1,
                          num_experts_per_tok=3, num_hidden_layers=2), dict(fp8=True)),
    "fp8": (V3, dict(hidden_size=256, intermediate_size=384, moe_intermediate_size=128, num_attention_heads=2, num_key_value_heads=2, q_lora_rank=128, kv_lora_rank=128,
                     qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128, n_routed_experts=6, n_group=3, num_experts_per_tok=3, num_hidden_layers=2), dict(fp8=True)),
    "fp8-tp": (V3, dict(hidden_size=128, intermediate_size=256, moe_intermediate_size=256, q_lora_rank=128, kv_lora_rank=128, qk_nope_head_dim=64, qk_rope_head_dim=64,
                        v_head_dim=64, n_routed_experts=4, n_group=1, topk_group=1, num_experts_per_tok=2, num_hidden_layers=2, vocab_size=128), dict(fp8=True, ue8m0=True, shards=500_000)),
    "tp": (V3, dict(num_attention_heads=8, num_key_value_heads=8, intermediate_size=128, moe_intermediate_size=32, n_routed_experts=8, num_experts_per_tok=3), {}),
    "plans": (V3, dict(hidden_size=32, num_hidden_layers=8, num_attention_heads=16, num_key_value_heads=16, q_lora_rank=16, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=8,
                       v_head_dim=8, intermediate_size=48, moe_intermediate_size=16, vocab_size=128), dict(shards=200_000)),
    "awq": (V3, dict(hidden_size=128, intermediate_size=128, moe_intermediate_size=128, q_lora_rank=64, kv_lora_rank=64, v_head_dim=32, n_routed_experts=8, num_experts_per_tok=3,
                     num_hidden_layers=2), dict(int4=dict(layout="awq", group=64))),
    # One projection was left alone, though no list says so.
    "awq-128": (V3, dict(hidden_size=128, intermediate_size=128, moe_intermediate_size=128, q_lora_rank=128, kv_lora_rank=128, v_head_dim=32, n_routed_experts=4, n_group=2,
                         topk_group=1, num_experts_per_tok=2, num_hidden_layers=2, vocab_size=96), dict(dtype="f16", shards=0, int4=dict(layout="awq", group=128, left=["model.layers.0.mlp.down_proj"]))),
    "packed-experts": (V3, dict(moe_intermediate_size=64, n_routed_experts=8, num_experts_per_tok=3), dict(int4=dict(
        layout="packed", group=32, ignore=["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*", "re:.*mlp\\.(gate|up|gate_up|down)_proj.*"]))),
    "packed": (V3, dict(hidden_size=96, intermediate_size=64, moe_intermediate_size=64, q_lora_rank=32, v_head_dim=16, n_routed_experts=8, num_experts_per_tok=3, num_hidden_layers=2,
                        num_nextn_predict_layers=0), dict(dtype="f16", int4=dict(layout="packed", group=32, symmetric=False, ignore=["lm_head"]))),
}

# ---------------------------------------------------------------- checkpoints


def published_shapes(c):
    """Every tensor of a checkpoint of this config, without FP8 scales: name → shape."""
    h, nh, rq, rkv = c["hidden_size"], c["num_attention_heads"], c["q_lora_rank"], c["kv_lora_rank"]
    dn, dr, dv, mi = c["qk_nope_head_dim"], c["qk_rope_head_dim"], c["v_head_dim"], c["moe_intermediate_size"]

    def mlp(p, width):
        return {p + ".gate_proj.weight": (width, h), p + ".up_proj.weight": (width, h), p + ".down_proj.weight": (h, width)}

    out = {"model.embed_tokens.weight": (c["vocab_size"], h)}
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}"
        a = p + ".self_attn"
        out[p + ".input_layernorm.weight"] = (h,)
        if rq:
            out |= {a + ".q_a_proj.weight": (rq, h), a + ".q_a_layernorm.weight": (rq,), a + ".q_b_proj.weight": (nh * (dn + dr), rq)}
        else:
            out[a + ".q_proj.weight"] = (nh * (dn + dr), h)
        out |= {a + ".kv_a_proj_with_mqa.weight": (rkv + dr, h), a + ".kv_a_layernorm.weight": (rkv,), a + ".kv_b_proj.weight": (nh * (dn + dv), rkv),
                a + ".o_proj.weight": (h, nh * dv), p + ".post_attention_layernorm.weight": (h,)}
        if not c["n_routed_experts"] or i < c["first_k_dense_replace"]:
            out |= mlp(p + ".mlp", c["intermediate_size"])
            continue
        out[p + ".mlp.gate.weight"] = (c["n_routed_experts"], h)
        if c["model_type"] != "deepseek_v2":
            out[p + ".mlp.gate.e_score_correction_bias"] = (c["n_routed_experts"],)
        for e in range(c["n_routed_experts"]):
            out |= mlp(f"{p}.mlp.experts.{e}", mi)
        if c["n_shared_experts"]:
            out |= mlp(p + ".mlp.shared_experts", c["n_shared_experts"] * mi)
    return out | {"model.norm.weight": (h,), "lm_head.weight": (c["vocab_size"], h)}


def quantise(w, ue8m0, block=(BLOCK, BLOCK)):
    """[n, k] float64 → E4M3 codes, F32 scales [ceil(n/128), ceil(k/128)]; edges as if padded with zeros."""
    (n, k), (bn, bk) = w.shape, block
    rn, rk = -(-n // bn), -(-k // bk)
    t = np.zeros((rn * bn, rk * bk))
    t[:n, :k] = w
    t = t.reshape(rn, bn, rk, bk)
    s = np.maximum(np.abs(t).max((1, 3)), 1e-12) / 448.0
    s = (np.exp2(np.ceil(np.log2(s))) if ue8m0 else s).astype(np.float32)
    q = e4m3(t / s[:, None, :, None].astype(np.float64)).reshape(rn * bn, rk * bk)[:n, :k]
    return torch.from_numpy(q.copy()).to(torch.float8_e4m3fn), torch.from_numpy(s)


def random_checkpoint(c, seed, dtype="bf16", fp8=False, ue8m0=False, bias_shift=0.0, latent_scale=1.0, int4=None, **_):
    """Tensors as a checkpoint stores them. Norms away from 1 and biases away from 0, or whole branches go untested."""
    rng = np.random.default_rng(seed)
    stored = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}[dtype]
    out = {}
    for name, shape in published_shapes(c).items():
        r = rng.standard_normal(shape)
        if name.endswith("e_score_correction_bias"):
            out[name] = torch.from_numpy(r * 0.3 + bias_shift).float()
            continue
        w = 1 + 0.2 * r if "norm" in name else r * shape[-1] ** -0.5
        if name.endswith("kv_a_proj_with_mqa.weight"):
            w[: c["kv_lora_rank"]] *= latent_scale  # small latents show the epsilon of their norm
        module = name.removesuffix(".weight")
        if int4 and module.rsplit(".", 1)[-1] in QUANTISED and int4_converts(module, int4):
            out |= quantise_int4(module, w, int4, stored)
        elif fp8 and name.removesuffix(".weight").rsplit(".", 1)[-1] in QUANTISED:
            out[name], out[name + "_scale_inv"] = quantise(w, ue8m0)
        else:
            out[name] = torch.from_numpy(w).to(stored)
    return out


def int4_converts(module, how):
    if module in how.get("left", ()):
        return False
    return not any(re.match(i[3:], module) if i.startswith("re:") else i == module for i in how.get("ignore", ()))


def quantise_int4(module, w, how, stored):
    if how["layout"] == "awq":
        parts = int4.awq_quantise(w, how["group"])
    else:
        parts = int4.pack_quantise(w, how["group"], how.get("symmetric", True), stored)
    return {f"{module}.{name}": x for name, x in parts.items()}


def int4_config(how):
    if how["layout"] == "awq":
        return {"quant_method": "awq", "bits": 4, "group_size": how["group"], "zero_point": True, "version": "gemm", "modules_to_not_convert": None}
    weights = {"actorder": None, "block_structure": None, "dynamic": False, "group_size": how["group"], "num_bits": 4, "observer": "minmax", "observer_kwargs": {}, "strategy": "group",
               "symmetric": how.get("symmetric", True), "type": "int"}
    return {"config_groups": {"group_0": {"input_activations": None, "output_activations": None, "targets": ["Linear"], "weights": weights}}, "format": "pack-quantized",
            "global_compression_ratio": None, "ignore": how["ignore"], "kv_cache_scheme": None, "quant_method": "compressed-tensors", "quantization_status": "compressed"}


def write_checkpoint(folder, c, tensors, shards=300_000, **_):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(c, indent=2) + "\n")
    if not shards:
        safetensors.torch.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    parts, size = [{}], 0
    for name, x in tensors.items():
        if size and size + x.nbytes > shards:
            parts.append({})
            size = 0
        parts[-1][name] = x
        size += x.nbytes
    index = {}
    for i, part in enumerate(parts):
        file = f"model-{i + 1:05d}-of-{len(parts):06d}.safetensors"
        safetensors.torch.save_file(part, folder / file, metadata={"format": "pt"})
        index |= {name: file for name in part}
    total = sum(x.nbytes for x in tensors.values())
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": index}, indent=1) + "\n")


def as_float64(tensors):
    return {n: x.float().numpy().astype(np.float64) for n, x in tensors.items()}


# ---------------------------------------------------------------- transformers


def dequantised(tensors, block=(BLOCK, BLOCK)):
    """float32 values of every weight."""
    def decode(q, s):
        n, k = q.shape
        return q.float() * s.repeat_interleave(block[0], 0)[:n].repeat_interleave(block[1], 1)[:, :k]
    tensors = int4.dequantised(tensors)
    return {n: decode(x, tensors[n + "_scale_inv"]) if n + "_scale_inv" in tensors else x.float() for n, x in tensors.items() if not n.endswith("_scale_inv")}


def reference_model(c, tensors, dtype=torch.float32):
    """The model that `transformers` loads from a folder in the published spelling."""
    block = c.get("quantization_config", {}).get("weight_block_size", (BLOCK, BLOCK))
    c = {k: v for k, v in c.items() if k != "quantization_config"} | {"torch_dtype": "float32"}
    if c["model_type"] == "kimi_k2":
        c["model_type"] = "deepseek_v3"
    cls = transformers.DeepseekV2ForCausalLM if c["model_type"] == "deepseek_v2" else transformers.DeepseekV3ForCausalLM
    with tempfile.TemporaryDirectory() as tmp:
        write_checkpoint(pathlib.Path(tmp), c, dequantised(tensors, block), shards=0)
        model, info = cls.from_pretrained(tmp, dtype=dtype, attn_implementation="eager", experts_implementation="eager", output_loading_info=True)
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()


def w8a8(x, q, s, ue8m0):
    shape, K = x.shape[:-1], x.shape[-1]
    x = x.float().reshape(-1, K // BLOCK, BLOCK)
    sx = x.abs().amax(-1).clamp_min(1e-4) / 448.0
    if ue8m0:
        sx = torch.exp2(torch.ceil(torch.log2(sx)))
    qx = (x / sx[..., None]).clamp(-448, 448).to(torch.float8_e4m3fn).float()
    y = torch.einsum("mbk,nbk->mnb", qx, q.float().reshape(q.shape[0], K // BLOCK, BLOCK)) * (sx[:, None, :] * s.repeat_interleave(BLOCK, 0)[None, : q.shape[0]])
    return y.sum(-1).reshape(*shape, -1)


def quantise_activations(model, tensors, ue8m0):
    """Replaces each linear whose weight is FP8 by its emulation."""
    def linear(name):
        q, s = tensors[name], tensors[name + "_scale_inv"]
        return lambda x: w8a8(x, q, s, ue8m0)
    for name, module in model.named_modules():
        if name + ".weight_scale_inv" in tensors:
            module.forward = linear(name + ".weight")
        elif name.endswith(".experts"):
            def forward(x, idx, weights, name=name):
                out = torch.zeros_like(x)
                for e in idx.unique().tolist():
                    gate, up, down = (linear(f"{name}.{e}.{p}_proj.weight") for p in ("gate", "up", "down"))
                    rows, slot = torch.where(idx == e)
                    y = down(torch.nn.functional.silu(gate(x[rows])) * up(x[rows]))
                    out.index_add_(0, rows, y * weights[rows, slot, None])
                return out
            module.forward = forward


@torch.no_grad()
def reference_logits(model, ids):
    """All rows, and the sorted experts of each router call."""
    chosen, hooks = [], []
    for name, module in model.named_modules():
        if name.endswith("mlp.gate"):
            hooks.append(module.register_forward_hook(lambda m, i, o: chosen.append(o[2].sort(-1)[0].numpy())))
    logits = model(torch.tensor([list(ids)]), use_cache=False).logits[0].float().numpy()
    for h in hooks:
        h.remove()
    return logits, chosen


# ---------------------------------------------------------------- goldens


def difference(a, b):
    """Relative L2 error, and the largest error over the RMS of b."""
    d = np.asarray(a, np.float64) - b
    return float(np.linalg.norm(d) / np.linalg.norm(b)), float(np.abs(d).max() / np.sqrt(np.mean(np.square(b))))


def choose_ids(oracle, n, rng, margin, clearance=0.0, absorbed=False, start=()):
    """`start` continued to n token ids such that no row's routing is closer than `margin` and, with quantised activations, no rounding closer than
    `clearance`. Row t depends on ids ≤ t alone, so one id at a time will do."""
    oracle.run(start) if start else oracle.reset()
    ids = list(start)
    while len(ids) < n:
        for _ in range(400):
            token = int(rng.integers(2, oracle.c["vocab_size"]))
            oracle.clearance()
            if oracle.step([token], absorbed)[1][0] > margin and oracle.clearance() > clearance:
                ids.append(token)
                break
            oracle.forget(len(ids))
        else:
            ids = ids[: (len(start) + len(ids)) // 2]
            oracle.forget(len(ids))
    return ids


def greedy(oracle, prompt, n):
    """n greedy tokens, the gap of the two best logits at each, and the least routing margin on the way."""
    logits, margin = oracle.run(prompt)
    out, gaps, least = [], [], margin.min()
    for _ in range(n):
        best = np.argsort(-logits[-1], kind="stable")[:2]
        out.append(int(best[0]))
        gaps.append(float(logits[-1, best[0]] - logits[-1, best[1]]))
        logits, margin = oracle.step([out[-1]])
        least = min(least, margin.min())
    return out, gaps, least


def stored_rows(n):
    wanted = [0, 1, 2, 7, 15, 16, 32, 33, 47, 48, 62, 63, 64, 65, 66, 79, 80, *range(95, n, 13), 127, 128, 199, n - 1]
    return sorted({r for r in wanted if r < n})


def make(name, seed):
    base, changes, how = CONFIGS[name]
    c = json.loads(json.dumps(base | changes))
    if how.get("dtype") == "f16":
        c["torch_dtype"] = "float16"
    if how.get("fp8"):
        c["quantization_config"] = FP8 | ({"scale_fmt": "ue8m0"} if how.get("ue8m0") else {})
    if how.get("int4"):
        c["quantization_config"] = int4_config(how["int4"])
    folder = HERE / name
    if folder.exists():
        shutil.rmtree(folder)
    tensors = random_checkpoint(c, seed, **how)
    write_checkpoint(folder, c, tensors, **how)
    if how.get("int4"):
        tensors = int4.dequantised(tensors)
        del c["quantization_config"]
    model, oracle = reference_model(c, tensors), Oracle(c, as_float64(tensors))
    rng, deviations, arrays = np.random.default_rng(seed + 1), [], {}
    report = {"name": name, "seed": seed, "versions": {m.__name__: m.__version__ for m in (np, torch, transformers)}, "margin": MARGIN}

    # What is known to differ between versions is looked at, not assumed.
    attention = model.model.layers[0].self_attn
    if abs(attention.scaling / oracle.softmax_scale() - 1) > 1e-6:
        deviations.append("softmax scale")
    with tempfile.TemporaryDirectory() as tmp:
        model.save_pretrained(tmp, max_shard_size="200KB")
        saved = {n: tuple(x.shape) for f in pathlib.Path(tmp).glob("*.safetensors") for n, x in safetensors.torch.load_file(f).items()}
        if saved != {n: tuple(x.shape) for n, x in tensors.items() if not n.endswith("_scale_inv")}:
            deviations.append("saved names")
        if c["model_type"] != "deepseek_v2":
            half = type(model).from_pretrained(tmp, dtype=torch.bfloat16)
            half.save_pretrained(tmp + "/half")
            again = type(model).from_pretrained(tmp + "/half", dtype=torch.bfloat16).state_dict()
            if not all(torch.equal(x.cpu(), tensors[n]) for n, x in again.items() if n.endswith("e_score_correction_bias")):
                deviations.append("correction bias loses float32")
    if how.get("respelled"):
        for old in folder.iterdir():
            old.unlink()
        reference_model(c, tensors, torch.bfloat16).save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)

    n_max = min(c["max_position_embeddings"], 200 if how.get("fp8") else 256)
    for key, n in (("a", n_max), ("b", 90)):
        ids = choose_ids(oracle, n, rng, MARGIN)
        exact, margins = oracle.run(ids)
        logits, chosen = reference_logits(model, ids)
        l2, worst = difference(logits, exact)
        report[key] = {"length": n, "least_margin": float(margins.min()), "oracle_relative_l2": l2, "oracle_max_over_rms": worst}
        if l2 > 1e-5 or worst > 1e-4:
            deviations.append(f"logits of {key}: relative L2 {l2:.2e}, max/RMS {worst:.2e}")
        rows = stored_rows(n)
        arrays |= {key + ".ids": np.array(ids, np.int32), key + ".rows": np.array(rows, np.int32), key + ".logits": logits[rows]}

    ids_a = arrays["a.ids"].tolist()
    for n in range(60, 140):  # the first prompt whose continuation is beyond doubt
        tokens, gaps, least = greedy(oracle, ids_a[:n], 16)
        if min(gaps) > GAP and least > MARGIN:
            break
    else:
        raise SystemExit(f"{name}: no clear greedy continuation with seed {seed}")
    text = ids_a[:n] + tokens
    logits, _ = reference_logits(model, text[:-1])
    if logits[n - 1 :].argmax(-1).tolist() != tokens:
        deviations.append("greedy continuation")
    report["greedy"] = {"prompt_length": n, "tokens": tokens, "gaps": [round(g, 6) for g in gaps]}

    if how.get("fp8") and all(x.shape[1] % BLOCK == 0 for x in tensors.values() if x.dtype == torch.float8_e4m3fn):
        # Rounding activations to E4M3 is a jump like routing: a difference of 1e-7 that flips one code ends as 5 % in the logits. So ids are chosen away from both.
        exact = Oracle(c, as_float64(tensors), w8a8=True)
        ids, prompt = choose_ids(exact, 48, rng, 1e-2, CLEARANCE), 36
        decode = choose_ids(exact, 46, rng, 1e-2, CLEARANCE, absorbed=True, start=ids[:prompt])[prompt:]
        quantise_activations(model, tensors, bool(how.get("ue8m0")))
        logits, _ = reference_logits(model, ids)
        oracle_logits, _ = exact.run(ids)
        exact.run(ids[:prompt])
        decoded = np.concatenate([exact.step([t], absorbed=True)[0] for t in decode])
        rows = stored_rows(len(ids))
        arrays |= {"w8a8.ids": np.array(ids, np.int32), "w8a8.rows": np.array(rows, np.int32), "w8a8.logits": logits[rows],
                   "w8a8.decode_ids": np.array(decode, np.int32), "w8a8.decode_logits": decoded.astype(np.float32)}
        l2, worst = difference(logits, oracle_logits)
        report["w8a8"] = {"prompt_length": prompt, "oracle_relative_l2": l2, "oracle_max_over_rms": worst,
                          "difference_to_weight_only": difference(logits, reference_logits(reference_model(c, tensors), ids)[0])[0]}
        if l2 > 1e-5 or worst > 1e-4:
            deviations.append("w8a8 emulation")
    report["deviations"] = deviations
    arrays = {k: np.ascontiguousarray(v) for k, v in arrays.items()}
    safetensors.numpy.save_file(arrays, folder / "golden.safetensors")
    [f.chmod(0o644) for f in folder.iterdir()]
    (folder / "golden.json").write_text(json.dumps(report, indent=1) + "\n")
    size = sum(f.stat().st_size for f in folder.iterdir())
    print(f"{name:16} {size / 1024:7.0f} KB  L2 {report['a']['oracle_relative_l2']:.1e} {report['b']['oracle_relative_l2']:.1e}  max/RMS {report['a']['oracle_max_over_rms']:.1e}"
          f"  greedy gap {min(report['greedy']['gaps']):.4f} {json.dumps(report.get('w8a8', ''))}", flush=True)
    if deviations:
        raise SystemExit(f"{name}: {deviations}")
    return size


if __name__ == "__main__":
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    names = sys.argv[1:] or list(CONFIGS)
    total = sum(make(name, 1000 + 10 * list(CONFIGS).index(name)) for name in names)
    print(f"{total / 2**20:.1f} MB")
