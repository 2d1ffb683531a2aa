"""Makes tests/golden/tuning: AutoRound's loop on two blocks of tests/data/nano, by autograd through fake-quantized
weights of transformers' own decoder layers, and the hidden states between all blocks.

    python3 tests/golden/make_tuning.py tests/data/nano tests/golden/tuning

Needs torch, transformers (5.17) and safetensors. Input rows are embeddings of the token ids (131 i + 7 j j + 11 j) mod
2048 of row i, position j; iteration t uses the rows (5 (4 t + k) + t) mod 8, k = 0..3.

nano.json: losses and learning rates. nano.safetensors: "hidden.N", the output of block N of the model on the first 70
tokens of row 0; "block.N.<linear>.v", ".alpha", ".beta": what the first step subtracts, as signs (0, 1, 2 for -1, 0,
1), four to a byte, lowest bits first; experts in their fused tensors, gate before up.
"""
import json
import pathlib
import sys

import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen3_5MoeConfig
from transformers.models.qwen3_5_moe import modeling_qwen3_5_moe as modeling

ROWS, TOKENS, BATCH, ITERS, GROUP, HIDDEN_TOKENS = 8, 64, 4, 40, 128, 70
FLOOR = torch.tensor(1e-5, dtype=torch.float16)


class Quantizer:
    def __init__(self, weight):
        self.shape = weight.shape
        self.w = weight.reshape(-1, min(GROUP, weight.shape[-1]))
        self.lo, self.hi = self.w.amin(1).clamp(max=0), self.w.amax(1).clamp(min=0)
        self.parameters = [torch.zeros_like(self.w), torch.ones(len(self.w)), torch.ones(len(self.w))]
        for p in self.parameters:
            p.requires_grad_(True)

    def __call__(self):
        v, alpha, beta = self.parameters
        with torch.no_grad():
            alpha.clamp_(0, 1), beta.clamp_(0, 1)
        below, above = -(self.lo * alpha), self.hi * beta
        largest = torch.maximum(below, above)
        s = (torch.where(above < below, largest, -largest) / 8).to(torch.float16)
        s = torch.where(s < 0, s.clamp(max=-FLOOR.item()), s.clamp(min=FLOOR.item())).unsqueeze(1)
        x = self.w / s + v
        x = x + (torch.round(x) - x).detach()
        return (s * x.clamp(-8, 7)).reshape(self.shape)


def quantized(name, weight):
    """The linears of nano whose rows and columns are multiples of 32, without router and gates."""
    if "norm" in name or "conv1d" in name or name.endswith(("mlp.gate.weight", "shared_expert_gate.weight")):
        return False
    return weight.dim() >= 2 and weight.shape[-1] % 32 == 0 and weight.shape[-2] % 32 == 0


def rates():
    """Those of torch's own scheduler, as auto-round sets it up."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=torch.tensor(1 / ITERS))
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=ITERS)
    out = []
    for _ in range(ITERS):
        out.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        schedule.step()
    return out


def packed(signs):
    digits = (signs.flatten() + 1).to(torch.uint8)
    digits = torch.cat([digits, torch.zeros(-len(digits) % 4, dtype=torch.uint8)]).view(-1, 4)
    return sum(digits[:, i] << (2 * i) for i in range(4)).contiguous()


def tune(layer, x, keywords, first_step):
    with torch.no_grad():
        target = layer(x, **keywords(len(x)))
    quantizers = {k: Quantizer(p.detach()) for k, p in layer.named_parameters() if quantized(k, p)}
    parameters = [p for q in quantizers.values() for p in q.parameters]
    rate, losses = torch.tensor(1 / ITERS), []
    for t in range(ITERS):
        rows = [(5 * (BATCH * t + k) + t) % ROWS for k in range(BATCH)]
        weights = {k: q() for k, q in quantizers.items()}
        out = torch.func.functional_call(layer, weights, (x[rows],), keywords(BATCH))
        loss = torch.nn.functional.mse_loss(out, target[rows])
        losses.append(loss.item())
        if t > 0:
            rate = rate * (1 - 1 / (ITERS - t + 1))
        gradients = torch.autograd.grad(1000 * loss, parameters)
        if t == 0:
            names = [f"{k}.{p}" for k in quantizers for p in ("v", "alpha", "beta")]
            first_step.update({k: packed(g.sign()) for k, g in zip(names, gradients)})
        for p, g in zip(parameters, gradients):
            with torch.no_grad():
                p -= rate * g.sign()
    return dict(losses=losses, best_loss=min(losses), quantizers=len(quantizers))


def main():
    torch.set_num_threads(1)
    source = pathlib.Path(sys.argv[1])
    tensors = load_file(source / "model-00001-of-00001.safetensors")
    config = json.loads((source / "config.json").read_text())
    config["text_config"]["dtype"] = "float32"
    text = Qwen3_5MoeConfig(**config).text_config
    text._attn_implementation = "sdpa"
    text._experts_implementation = "eager"
    token = lambda i, j: (131 * i + 7 * j * j + 11 * j) % 2048
    ids = torch.tensor([[token(i, j) for j in range(TOKENS)] for i in range(ROWS)])
    x = tensors["model.language_model.embed_tokens.weight"].float()[ids]
    rotary = modeling.Qwen3_5MoeTextRotaryEmbedding(text)

    def keywords(rows, tokens=TOKENS):
        positions = torch.arange(tokens)[None].expand(rows, -1)
        angles = rotary(torch.zeros(1), positions[None].expand(3, -1, -1))
        return dict(position_embeddings=angles, attention_mask=None, position_ids=positions)

    blocks, values = [], {}
    hidden = tensors["model.language_model.embed_tokens.weight"].float()[token(0, torch.arange(HIDDEN_TOKENS))][None]
    for block in range(text.num_hidden_layers):
        prefix = f"model.language_model.layers.{block}."
        layer = modeling.Qwen3_5MoeDecoderLayer(text, block)
        layer.load_state_dict({k[len(prefix):]: v.float() for k, v in tensors.items() if k.startswith(prefix)})
        layer.requires_grad_(False)
        with torch.no_grad():
            hidden = layer(hidden, **keywords(1, HIDDEN_TOKENS))
        values[f"hidden.{block}"] = hidden.clone()
        if block in (0, 3):
            signs = {}
            blocks.append(dict(block=block, **tune(layer, x, keywords, signs)))
            values.update({f"block.{block}.{k}": v for k, v in signs.items()})
    folder = pathlib.Path(sys.argv[2])
    (folder / "nano.json").write_text(json.dumps(dict(iters=ITERS, rates=rates(), blocks=blocks), indent=1) + "\n")
    save_file(values, folder / "nano.safetensors")


if __name__ == "__main__":
    main()
