"""Makes tests/golden/quant.safetensors: auto-round's own quantizers with torch's autograd on small matrices.

    python3 tests/golden/make_quant.py tests/golden/quant.safetensors

Needs auto-round (0.16.1), torch and safetensors. A case is named "<sym|asym>.<bits>.<group_size>" and has: weight, grad
(of the quantized weight), v, alpha, beta [groups of all rows]; and what follows: weight_q, scale (fp16), zero, grad_v,
grad_alpha, grad_beta. The columns are no multiple of the group sizes, so every row ends in a tail group. Row 0 holds
zeros, row 1 ties of its extremes, row 2 weights too small for a scale, row 3 one large weight among small ones; the
rest is random, on a coarse grid (rows 4 and 5, where roundings tie) or not.
"""
import sys

import torch
from auto_round.data_type.int import quant_tensor_asym, quant_tensor_sym
from safetensors.torch import save_file

ROWS, COLUMNS = 8, 76


def matrix(generator):
    w = torch.randn(ROWS, COLUMNS, generator=generator) * 0.1
    w[0] = 0
    w[1, ::2], w[1, 1::2] = 0.25, -0.25
    w[2] *= 1e-5
    w[3] *= 0.01
    w[3, 17] = -1.5
    w[4:6] = torch.round(w[4:6] * 128) / 128
    return w


def case(bits, sym, group_size, generator, start):
    weight = matrix(generator)
    group = group_size if group_size > 0 else COLUMNS
    per_row = -(-COLUMNS // group)
    padded = torch.zeros(ROWS, per_row * group)
    if not start:
        padded[:, :COLUMNS] = (torch.rand(ROWS, COLUMNS, generator=generator) - 0.5).mul(128).round() / 128
    v = padded.view(-1, group).clone().requires_grad_(True)
    factors = [torch.ones(ROWS * per_row) if start else
               1 - (torch.rand(ROWS * per_row, generator=generator) * 16).round() / 128 for _ in range(2)]
    alpha, beta = (f.requires_grad_(True) for f in factors)
    quantize = quant_tensor_sym if sym else quant_tensor_asym
    w_q, scale, zero = quantize(weight, bits=bits, group_size=group_size, v=v, min_scale=alpha, max_scale=beta)
    grad = torch.randn(ROWS, COLUMNS, generator=generator)
    w_q.backward(grad)
    zero = zero if torch.is_tensor(zero) else torch.full((ROWS * per_row,), float(zero))
    cut = lambda x: x.detach().reshape(ROWS, -1)[:, :COLUMNS].contiguous()
    return dict(weight=weight, grad=grad, v=cut(v), alpha=alpha.detach(), beta=beta.detach(), weight_q=w_q.detach(),
                scale=scale.detach().flatten(), zero=zero.detach().flatten().float(), grad_v=cut(v.grad), grad_alpha=alpha.grad,
                grad_beta=beta.grad)


def main():
    generator, out = torch.Generator().manual_seed(5), {}
    for sym in (True, False):
        for bits in (2, 3, 4, 8):
            for group_size in (32, 64, -1):
                values = case(bits, sym, group_size, generator, start=bits == 4 and group_size == 64)
                name = f"{'sym' if sym else 'asym'}.{bits}.{group_size}"
                out.update({f"{name}.{k}": x.contiguous().clone() for k, x in values.items()})
    save_file(out, sys.argv[1])


if __name__ == "__main__":
    main()
