#!/usr/bin/env python3
"""Writes a checkpoint directory of Qwen3.6-35B-A3B without its weights: config.json, the index, and
weight files that end after their headers. All that a plan needs, in a few hundred kilobytes.

  make_header_only.py OUT_DIR [--files 26]
"""
import argparse
import json
import os
import struct

LAYERS, HIDDEN, VOCAB, EXPERTS = 40, 2048, 248320, 256
HEADS, KV_HEADS, HEAD = 16, 2, 256
KEY_HEADS, VALUE_HEADS, GDN_HEAD, TAPS = 16, 32, 128, 4
EXPERT_WIDTH, SHARED_WIDTH = 512, 512
DEPTH, V_HIDDEN, V_WIDTH, V_POSITIONS, V_PATCH, V_MERGE = 27, 1152, 4304, 2304, 16, 2
FULL_INTERVAL = 4


def is_full(layer):
    return (layer + 1) % FULL_INTERVAL == 0


def text_config():
    return {
        "attention_bias": False, "attention_dropout": 0.0, "attn_output_gate": True,
        "bos_token_id": 248044, "dtype": "bfloat16", "eos_token_id": 248044,
        "full_attention_interval": FULL_INTERVAL, "head_dim": HEAD, "hidden_act": "silu",
        "hidden_size": HIDDEN, "initializer_range": 0.02,
        "layer_types": ["full_attention" if is_full(i) else "linear_attention"
                        for i in range(LAYERS)],
        "linear_conv_kernel_dim": TAPS, "linear_key_head_dim": GDN_HEAD,
        "linear_num_key_heads": KEY_HEADS, "linear_num_value_heads": VALUE_HEADS,
        "linear_value_head_dim": GDN_HEAD, "mamba_ssm_dtype": "float32",
        "max_position_embeddings": 262144, "model_type": "qwen3_5_moe_text",
        "moe_intermediate_size": EXPERT_WIDTH, "mtp_num_hidden_layers": 1,
        "mtp_use_dedicated_embeddings": False, "num_attention_heads": HEADS,
        "num_experts": EXPERTS, "num_experts_per_tok": 8, "num_hidden_layers": LAYERS,
        "num_key_value_heads": KV_HEADS, "output_router_logits": False, "pad_token_id": None,
        "partial_rotary_factor": 0.25, "rms_norm_eps": 1e-06,
        "rope_parameters": {"mrope_interleaved": True, "mrope_section": [11, 11, 10],
                            "partial_rotary_factor": 0.25, "rope_theta": 10000000,
                            "rope_type": "default"},
        "router_aux_loss_coef": 0.001, "shared_expert_intermediate_size": SHARED_WIDTH,
        "tie_word_embeddings": False, "use_cache": True, "vocab_size": VOCAB,
    }


def vision_config():
    return {
        "deepstack_visual_indexes": [], "depth": DEPTH, "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": V_HIDDEN, "in_channels": 3, "initializer_range": 0.02,
        "intermediate_size": V_WIDTH, "model_type": "qwen3_5_moe", "num_heads": 16,
        "num_position_embeddings": V_POSITIONS, "out_hidden_size": HIDDEN, "patch_size": V_PATCH,
        "spatial_merge_size": V_MERGE, "temporal_patch_size": 2,
    }


def config():
    return {
        "architectures": ["Qwen3_5MoeForConditionalGeneration"], "image_token_id": 248056,
        "model_type": "qwen3_5_moe", "text_config": text_config(), "tie_word_embeddings": False,
        "transformers_version": "4.57.1", "video_token_id": 248057,
        "vision_config": vision_config(), "vision_end_token_id": 248054,
        "vision_start_token_id": 248053,
    }


def layer(prefix, full):
    """(name, shape) of one decoder layer; the experts are fused."""
    value = VALUE_HEADS * GDN_HEAD
    conv = 2 * KEY_HEADS * GDN_HEAD + value
    tensors = [
        ("input_layernorm.weight", [HIDDEN]),
        ("post_attention_layernorm.weight", [HIDDEN]),
        ("mlp.gate.weight", [EXPERTS, HIDDEN]),
        ("mlp.experts.gate_up_proj", [EXPERTS, 2 * EXPERT_WIDTH, HIDDEN]),
        ("mlp.experts.down_proj", [EXPERTS, HIDDEN, EXPERT_WIDTH]),
        ("mlp.shared_expert.gate_proj.weight", [SHARED_WIDTH, HIDDEN]),
        ("mlp.shared_expert.up_proj.weight", [SHARED_WIDTH, HIDDEN]),
        ("mlp.shared_expert.down_proj.weight", [HIDDEN, SHARED_WIDTH]),
        ("mlp.shared_expert_gate.weight", [1, HIDDEN]),
    ]
    if full:
        tensors += [
            ("self_attn.q_proj.weight", [2 * HEADS * HEAD, HIDDEN]),
            ("self_attn.k_proj.weight", [KV_HEADS * HEAD, HIDDEN]),
            ("self_attn.v_proj.weight", [KV_HEADS * HEAD, HIDDEN]),
            ("self_attn.o_proj.weight", [HIDDEN, HEADS * HEAD]),
            ("self_attn.q_norm.weight", [HEAD]),
            ("self_attn.k_norm.weight", [HEAD]),
        ]
    else:
        tensors += [
            ("linear_attn.in_proj_qkv.weight", [conv, HIDDEN]),
            ("linear_attn.in_proj_z.weight", [value, HIDDEN]),
            ("linear_attn.in_proj_b.weight", [VALUE_HEADS, HIDDEN]),
            ("linear_attn.in_proj_a.weight", [VALUE_HEADS, HIDDEN]),
            ("linear_attn.conv1d.weight", [conv, 1, TAPS]),
            ("linear_attn.A_log", [VALUE_HEADS]),
            ("linear_attn.dt_bias", [VALUE_HEADS]),
            ("linear_attn.norm.weight", [GDN_HEAD]),
            ("linear_attn.out_proj.weight", [HIDDEN, value]),
        ]
    return [(prefix + name, shape) for name, shape in tensors]


def mtp():
    return [
        ("mtp.fc.weight", [HIDDEN, 2 * HIDDEN]),
        ("mtp.norm.weight", [HIDDEN]),
        ("mtp.pre_fc_norm_embedding.weight", [HIDDEN]),
        ("mtp.pre_fc_norm_hidden.weight", [HIDDEN]),
    ] + layer("mtp.layers.0.", True)


def visual():
    merged = V_MERGE * V_MERGE * V_HIDDEN
    pairs = [("patch_embed.proj", [V_HIDDEN, 3, 2, V_PATCH, V_PATCH])]
    for block in range(DEPTH):
        at = f"blocks.{block}."
        pairs += [
            (at + "norm1", [V_HIDDEN]), (at + "norm2", [V_HIDDEN]),
            (at + "attn.qkv", [3 * V_HIDDEN, V_HIDDEN]), (at + "attn.proj", [V_HIDDEN, V_HIDDEN]),
            (at + "mlp.linear_fc1", [V_WIDTH, V_HIDDEN]),
            (at + "mlp.linear_fc2", [V_HIDDEN, V_WIDTH]),
        ]
    pairs += [("merger.norm", [V_HIDDEN]), ("merger.linear_fc1", [merged, merged]),
              ("merger.linear_fc2", [HIDDEN, merged])]
    tensors = [("model.visual.pos_embed.weight", [V_POSITIONS, V_HIDDEN])]
    for name, shape in pairs:
        tensors.append((f"model.visual.{name}.weight", shape))
        tensors.append((f"model.visual.{name}.bias", shape[:1]))
    return tensors


def tensors():
    out = [("model.language_model.embed_tokens.weight", [VOCAB, HIDDEN])]
    for i in range(LAYERS):
        out += layer(f"model.language_model.layers.{i}.", is_full(i))
    out += [("model.language_model.norm.weight", [HIDDEN]), ("lm_head.weight", [VOCAB, HIDDEN])]
    return out + visual() + mtp()


def size_of(shape):
    count = 2  # bytes of a BF16
    for n in shape:
        count *= n
    return count


def write_header(path, part):
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in sorted(part):
        end = at + size_of(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)


def cut(items, files):
    """Runs of about equal size."""
    total = sum(size_of(shape) for _, shape in items)
    parts, done = [[] for _ in range(files)], 0
    for name, shape in items:
        parts[min(files - 1, done * files // total)].append((name, shape))
        done += size_of(shape)
    return [part for part in parts if part]


def main():
    ap = argparse.ArgumentParser(description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("out"), ap.add_argument("--files", type=int, default=26)
    a = ap.parse_args()
    os.makedirs(a.out, exist_ok=True)
    parts, weight_map = cut(tensors(), a.files), {}
    for i, part in enumerate(parts):
        name = f"model-{i + 1:05d}-of-{len(parts):05d}.safetensors"
        write_header(os.path.join(a.out, name), part)
        weight_map.update({tensor: name for tensor, _ in part})
    index = {"metadata": {"total_size": sum(size_of(s) for _, s in tensors())},
             "weight_map": dict(sorted(weight_map.items()))}
    with open(os.path.join(a.out, "model.safetensors.index.json"), "w", encoding="utf-8") as f:
        json.dump(index, f, indent=2)
    with open(os.path.join(a.out, "config.json"), "w", encoding="utf-8") as f:
        json.dump(config(), f, indent=4)


if __name__ == "__main__":
    main()
