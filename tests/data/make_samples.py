#!/usr/bin/env python3
"""Writes calibration text for the demo and the pipeline tests: documents sampled from nano itself.

  make_samples.py NANO_DIR OUT.jsonl [--documents 96] [--tokens 640] [--seed 7]
Needs torch, transformers and tokenizers. The text is the model's own, so it may ship with the project.
"""
import argparse, json, os
import torch
from tokenizers import Tokenizer
from transformers import Qwen3_5MoeConfig
from transformers.models.qwen3_5_moe import modeling_qwen3_5_moe as M
from safetensors.torch import load_file


@torch.no_grad()
def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("model"), ap.add_argument("out")
    ap.add_argument("--documents", type=int, default=96), ap.add_argument("--tokens", type=int, default=640)
    ap.add_argument("--seed", type=int, default=7)
    a = ap.parse_args()
    torch.manual_seed(a.seed)
    config = json.load(open(os.path.join(a.model, "config.json")))
    config["text_config"]["dtype"] = "float32"
    model = M.Qwen3_5MoeForConditionalGeneration(Qwen3_5MoeConfig(**config)).float().eval()
    state = {}
    for name in sorted(os.listdir(a.model)):
        if name.endswith(".safetensors"):
            state.update({k: v.float() for k, v in load_file(os.path.join(a.model, name)).items() if not k.startswith("mtp.")})
    model.load_state_dict(state)
    tok = Tokenizer.from_file(os.path.join(a.model, "tokenizer.json"))
    end = config["text_config"]["eos_token_id"]
    ids = torch.full((a.documents, 1), end)
    text, past, step = model.model.language_model, None, ids
    for _ in range(a.tokens):
        out = text(input_ids=step, past_key_values=past, use_cache=True)
        past = out.past_key_values
        logits = model.lm_head(out.last_hidden_state[:, -1]) / 0.9
        logits[:, end:] = float("-inf")  # plain text only
        top = logits.topk(64, -1)
        step = top.indices.gather(-1, torch.multinomial(top.values.softmax(-1), 1))
        ids = torch.cat([ids, step], 1)
    with open(a.out, "w", encoding="utf-8") as f:
        for row in ids[:, 1:].tolist():
            f.write(json.dumps({"text": tok.decode(row).replace("\ufffd", "")}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
