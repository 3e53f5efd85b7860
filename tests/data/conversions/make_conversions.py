"""Reference of the conversions made on loading, by torch: FP8 blocks to BF16, and BF16, F16, F32 to FP8 blocks of 128 x 128.

python make_conversions.py writes conversions.safetensors next to itself (torch 2.11, safetensors 0.6).
"""
import pathlib

import torch
from safetensors.torch import save_file

B = 128


def spread(scales, rows, cols):
    return scales.repeat_interleave(B, 0)[:rows].repeat_interleave(B, 1)[:, :cols]


def decode(codes, scales):
    return (codes.float() * spread(scales, *codes.shape)).to(torch.bfloat16)


def quantise(w):
    rows, cols = w.shape
    padded = torch.zeros(-(-rows // B) * B, -(-cols // B) * B)
    padded[:rows, :cols] = w.float()
    blocks = padded.view(-(-rows // B), B, -(-cols // B), B)
    scales = blocks.abs().amax(dim=(1, 3)) / 448.0
    scales = torch.where(scales == 0, torch.ones_like(scales), scales)
    codes = (w.float() / spread(scales, rows, cols)).clamp(-448, 448).to(torch.float8_e4m3fn)
    return codes, scales


def main():
    g = torch.Generator().manual_seed(6)
    out = {}

    rows, cols = 140, 262  # edge blocks of 12 rows and 6 columns
    codes = torch.randint(0, 256, (rows, cols), generator=g, dtype=torch.int64)
    codes = torch.where((codes & 0x7F) == 0x7F, codes - 1, codes).to(torch.uint8)  # no NaN
    scales = torch.rand(2, 3, generator=g) * 0.01
    scales[0, 1] = 2.0 ** -133  # products that are subnormal in BF16
    scales[1, 0] = 2.0 ** -3 / 3
    scales[1, 2] = -1e30        # large, negative
    codes = codes.view(torch.float8_e4m3fn)
    out |= {"decode.codes": codes, "decode.scales": scales, "decode.bf16": decode(codes, scales)}

    w = torch.randn(rows, cols, generator=g)
    w[:128, :128] = 0                                      # a block of zeros
    w[5, 200] = 448.0                                     # scale exactly 1: ties and subnormals of E4M3 below
    w[6, 128:256] = torch.arange(128) * 2.0 ** -10         # halves of the subnormal step
    w[7, 128:256] = torch.arange(128) * 3.5
    w[8, 128:256] = -torch.arange(1, 129) * 2.0 ** -7 * 1.0625
    w[128:, :128] *= 1e-36                                 # small scales
    w[128:, 256:] *= 1e30
    for name, dtype in (("bf16", torch.bfloat16), ("f16", torch.float16), ("f32", torch.float32)):
        stored = w.clone()
        if name == "f16":
            stored[128:, 256:] = w[128:, 256:] * 1e-28
        stored = stored.to(dtype)
        if name == "f32":
            stored[128:, :128] = w[128:, :128] * 1e-8       # 1/448 of these is below f32
            stored[130, 3] = 1e-42
        codes, scales = quantise(stored)
        out |= {f"{name}.values": stored, f"{name}.codes": codes, f"{name}.scales": scales}
    save_file({k: v.contiguous() for k, v in out.items()}, pathlib.Path(__file__).with_name("conversions.safetensors"))


main()
