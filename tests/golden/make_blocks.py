"""Makes tests/golden/blocks: small random checkpoints of the qwen3_5_moe family and what transformers and autograd say
of each of their decoder layers.

    python3 tests/golden/make_blocks.py tests/golden/blocks

Needs torch, transformers (5.17) and safetensors. Every case is a folder with a checkpoint (weights under
their source names) and golden.safetensors: layer.N.x, .y, .dy and the gradient of every linear.
"""
import json
import pathlib
import sys

import torch
from safetensors.torch import save_file
from transformers.models.qwen3_5_moe.configuration_qwen3_5_moe import Qwen3_5MoeTextConfig
from transformers.models.qwen3_5_moe.modeling_qwen3_5_moe import Qwen3_5MoeTextModel

BASE = dict(
    model_type="qwen3_5_moe_text", attention_bias=False, attention_dropout=0.0, hidden_act="silu", rms_norm_eps=1e-6,
    vocab_size=64, max_position_embeddings=256, num_hidden_layers=2, layer_types=["linear_attention", "full_attention"],
    hidden_size=64, num_attention_heads=4, num_key_value_heads=2, head_dim=16, linear_num_key_heads=2,
    linear_num_value_heads=4, linear_key_head_dim=16, linear_value_head_dim=16, linear_conv_kernel_dim=4,
    num_experts=8, num_experts_per_tok=2, moe_intermediate_size=32, shared_expert_intermediate_size=32,
    tie_word_embeddings=False, mtp_num_hidden_layers=0,
    rope_parameters=dict(rope_type="default", rope_theta=10000000, partial_rotary_factor=0.5,
                         mrope_interleaved=True, mrope_section=[2, 1, 1]))

CASES = {
    # chunks of the delta rule with a ragged tail
    "ragged": dict(batch=2, seq=70),
    # key and value heads of different size and number, other widths, a rotation of a quarter of the head
    "uneven": dict(batch=1, seq=129, linear_num_key_heads=1, linear_num_value_heads=3, linear_key_head_dim=32,
                   linear_value_head_dim=16, num_attention_heads=6, num_key_value_heads=2, head_dim=32,
                   moe_intermediate_size=64, shared_expert_intermediate_size=32, num_experts=5, num_experts_per_tok=3,
                   rope_parameters=dict(rope_type="default", rope_theta=10000, partial_rotary_factor=0.25,
                                        mrope_interleaved=True, mrope_section=[2, 1, 1])),
    # all tokens of one expert, others never reached
    "one_expert": dict(batch=1, seq=9, num_experts_per_tok=1, num_experts=4),
    # shorter than the convolution
    "short": dict(batch=3, seq=2, num_experts=4),
}


def make(folder, batch, seq, **changes):
    torch.manual_seed(sum(map(ord, folder.name)))
    text = {**BASE, **changes}
    model = Qwen3_5MoeTextModel._from_config(Qwen3_5MoeTextConfig(**text), attn_implementation="eager").float()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("A_log"):
                p.copy_(torch.rand_like(p) * 2)
            elif "norm" in name:
                p.copy_(torch.randn_like(p) * 0.2 + (1 if "linear_attn.norm" in name else 0))
            elif p.dim() > 1:
                p.copy_(torch.randn_like(p) * (0.5 if "conv1d" in name else 1.5 / p.shape[-1] ** 0.5))
            if folder.name == "one_expert" and name.endswith("mlp.gate.weight"):
                p.copy_(torch.where(torch.arange(len(p)) == 0, 1.0, -1.0)[:, None].expand_as(p))
    golden, weights = {}, {}
    for i, layer in enumerate(model.layers):
        x = torch.randn(batch, seq, text["hidden_size"]) + (8 if folder.name == "one_expert" else 0)
        position = torch.arange(seq)[None].expand(batch, -1)
        angles = model.rotary_emb(x, position[None].expand(3, -1, -1))
        mask = None
        if text["layer_types"][i] == "full_attention":
            mask = torch.full((seq, seq), float("-inf")).triu(1)[None, None]
        y = layer(x, position_embeddings=angles, attention_mask=mask, position_ids=position)
        y = y[0] if isinstance(y, tuple) else y
        dy = torch.randn_like(y)
        y.backward(dy)
        golden.update({f"layer.{i}.x": x, f"layer.{i}.y": y.detach(), f"layer.{i}.dy": dy})
        for name, p in layer.named_parameters():
            weights[f"model.language_model.layers.{i}.{name}"] = p.detach()
            if p.grad is not None and p.dim() > 1 and "conv1d" not in name and "mlp.gate" != name[:-7]:
                golden[f"layer.{i}.{name}"] = p.grad
    weights["model.language_model.embed_tokens.weight"] = torch.zeros(text["vocab_size"], text["hidden_size"])
    weights["model.language_model.norm.weight"] = torch.zeros(text["hidden_size"])
    weights["lm_head.weight"] = torch.zeros(text["vocab_size"], text["hidden_size"])
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir(parents=True, exist_ok=True)
    config = dict(architectures=["Qwen3_5MoeForConditionalGeneration"], model_type="qwen3_5_moe", text_config=text,
                  tie_word_embeddings=False)
    (checkpoint / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file({k: v.contiguous() for k, v in weights.items()}, checkpoint / "model.safetensors", metadata={"format": "pt"})
    save_file({k: v.contiguous() for k, v in golden.items()}, folder / "golden.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    for name, case in CASES.items():
        make(pathlib.Path(sys.argv[1]) / name, **case)
