"""4-bit weights as AutoAWQ and compressed-tensors write them, and their values. Both ways agree bit by bit with compressed-tensors 0.20.0
(compressors/pack_quantized/helpers.py) and AutoAWQ 0.2.9 (utils/packing_utils.py)."""
import numpy as np
import torch

ORDER = [0, 2, 4, 6, 1, 3, 5, 7]  # output feature 8c + ORDER[j] lies in half byte j of a word


def _pack(n, order):
    """[..., 8m] of 0 … 15 → [..., m] words."""
    out = np.zeros((*n.shape[:-1], n.shape[-1] // 8), np.uint32)
    for j, c in enumerate(order):
        out |= n[..., c::8].astype(np.uint32) << np.uint32(4 * j)
    return torch.from_numpy(out.view(np.int32).copy())


def _unpack(words, order):
    w = words.numpy().view(np.uint32)
    out = np.zeros((*w.shape[:-1], w.shape[-1] * 8), np.int64)
    for j, c in enumerate(order):
        out[..., c::8] = w >> np.uint32(4 * j) & 15
    return out


def awq_quantise(w, group):
    """[out, in] float64 → qweight [in, out / 8], qzeros [in / group, out / 8], scales [in / group, out]."""
    n, k = w.shape
    g = w.reshape(n, k // group, group)
    low, high = np.minimum(g.min(2), 0), np.maximum(g.max(2), 0)
    scales = ((high - low) / 15).astype(np.float16)
    s = scales.astype(np.float64)
    zeros = np.clip(np.round(-low / s), 0, 15)
    q = np.clip(np.round(g / s[..., None]) + zeros[..., None], 0, 15).reshape(n, k)
    return {"qweight": _pack(q.T, ORDER), "qzeros": _pack(zeros.T, ORDER), "scales": torch.from_numpy(scales.T.copy())}


def pack_quantise(w, group, symmetric, dtype):
    """[out, in] float64 → weight_packed [out, in / 8], weight_scale [out, in / group], weight_shape, and weight_zero_point [out / 8, in / group] where not symmetric."""
    n, k = w.shape
    g = w.reshape(n, k // group, group)
    if symmetric:
        scales = torch.from_numpy(np.abs(g).max(2) / 7.5).to(dtype)
        zeros = np.zeros((n, k // group))
    else:
        low, high = np.minimum(g.min(2), 0), np.maximum(g.max(2), 0)
        scales = torch.from_numpy((high - low) / 15).to(dtype)
        zeros = np.clip(np.round(-8 - low / scales.double().numpy()), -8, 7)
    q = np.clip(np.round(g / scales.double().numpy()[..., None]) + zeros[..., None], -8, 7).reshape(n, k)
    out = {"weight_packed": _pack(q + 8, range(8)), "weight_scale": scales, "weight_shape": torch.tensor([n, k])}
    if not symmetric:
        out["weight_zero_point"] = _pack((zeros + 8).T, range(8)).T.contiguous()
    return out


def _spread(x, k):
    return np.repeat(x, k // x.shape[1], 1)


def dequantised(tensors):
    """The same checkpoint with float32 values in place of 4-bit parts; others as they are."""
    out = {}
    for name, x in tensors.items():
        module, _, part = name.rpartition(".")
        if part == "qweight":
            q, z, s = _unpack(x, ORDER).T, _unpack(tensors[module + ".qzeros"], ORDER).T, tensors[module + ".scales"].float().numpy().T
        elif part == "weight_packed":
            q, s = _unpack(x, range(8)), tensors[module + ".weight_scale"].float().numpy()
            z = np.full(s.shape, 8) if module + ".weight_zero_point" not in tensors else _unpack(tensors[module + ".weight_zero_point"].T.contiguous(), range(8)).T
        else:
            if part not in ("qzeros", "scales", "weight_scale", "weight_zero_point", "weight_shape"):
                out[name] = x
            continue
        k = q.shape[1]
        out[module + ".weight"] = torch.from_numpy((q - _spread(z, k)).astype(np.float32) * _spread(s, k))
    return out
