"""Makes tests/golden/mtp: the input and the output of the MTP layer of tests/data/nano in plain torch, behind
transformers' own model.

    python3 tests/golden/make_mtp.py tests/data/nano tests/golden/mtp

Needs torch, transformers (5.17) and safetensors. Rows are the token ids (131 i + 7 j j + 11 j) mod 2048 of row i,
position j. nano.safetensors: "hidden", the outputs of the last block before the final norm [ROWS, TOKENS, hidden];
"u" [ROWS, TOKENS - 1, hidden], fc of the normed embedding of the next token beside the normed hidden state; "y", what the
MTP layer makes of it.
"""
import copy
import json
import pathlib
import sys

import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen3_5MoeConfig
from transformers.models.qwen3_5_moe import modeling_qwen3_5_moe as modeling

ROWS, TOKENS = 3, 24


def norm(x, offset, eps):
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * (1 + offset)


def main():
    torch.set_num_threads(1)
    source, folder = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    tensors = {k: v.float() for k, v in load_file(source / "model-00001-of-00001.safetensors").items()}
    config = json.loads((source / "config.json").read_text())
    config["text_config"]["dtype"] = "float32"
    text = Qwen3_5MoeConfig(**config).text_config
    text._attn_implementation = "eager"
    text._experts_implementation = "eager"
    rotary = modeling.Qwen3_5MoeTextRotaryEmbedding(text)

    def run(config, index, prefix, x):
        layer = modeling.Qwen3_5MoeDecoderLayer(config, index)
        layer.load_state_dict({k[len(prefix):]: v for k, v in tensors.items() if k.startswith(prefix)})
        rows, tokens = x.shape[:2]
        positions = torch.arange(tokens)[None].expand(rows, -1)
        mask = None
        if config.layer_types[index] == "full_attention":
            mask = torch.full((tokens, tokens), float("-inf")).triu(1)[None, None]
        with torch.no_grad():
            return layer(x, position_embeddings=rotary(x, positions[None].expand(3, -1, -1)), attention_mask=mask,
                         position_ids=positions)

    ids = torch.tensor([[(131 * i + 7 * j * j + 11 * j) % 2048 for j in range(TOKENS)] for i in range(ROWS)])
    embedding = tensors["model.language_model.embed_tokens.weight"]
    hidden = embedding[ids]
    for block in range(text.num_hidden_layers):
        hidden = run(text, block, f"model.language_model.layers.{block}.", hidden)
    final = norm(hidden, tensors["model.language_model.norm.weight"], text.rms_norm_eps)
    e = norm(embedding[ids[:, 1:]], tensors["mtp.pre_fc_norm_embedding.weight"], text.rms_norm_eps)
    f = norm(final[:, :-1], tensors["mtp.pre_fc_norm_hidden.weight"], text.rms_norm_eps)
    u = torch.cat([e, f], -1) @ tensors["mtp.fc.weight"].T
    mtp = copy.deepcopy(text)
    mtp.layer_types = ["full_attention"]
    y = run(mtp, 0, "mtp.layers.0.", u)
    folder.mkdir(exist_ok=True)
    save_file({k: v.contiguous() for k, v in dict(hidden=hidden, u=u, y=y).items()}, folder / "nano.safetensors")


if __name__ == "__main__":
    main()
