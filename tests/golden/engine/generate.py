"""Tiny Llama and Qwen2 reward models with their hidden states, rewards, loss and every gradient, by transformers.

Shapes are odd on purpose: 7 query heads to one key-value head, head_dim not hidden/heads, llama3 rope scaling, biases.
Weights are float32; everything is computed in float64. Run: python generate.py (writes beside itself).
Needs torch, transformers 4.57, safetensors.
"""
import json
import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForSequenceClassification, Qwen2Config, Qwen2ForSequenceClassification

here = pathlib.Path(__file__).parent
shared = dict(vocab_size=40, max_position_embeddings=64, num_labels=1, pad_token_id=0, initializer_range=0.3)
models = {
    "llama": LlamaForSequenceClassification(LlamaConfig(
        hidden_size=20, intermediate_size=28, num_hidden_layers=3, num_attention_heads=7, num_key_value_heads=1,
        head_dim=6, rms_norm_eps=1e-5, rope_theta=10000.0, tie_word_embeddings=False, attention_bias=True, mlp_bias=True,
        rope_scaling=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                          original_max_position_embeddings=16), **shared)),
    "qwen2": Qwen2ForSequenceClassification(Qwen2Config(
        hidden_size=24, intermediate_size=36, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        rms_norm_eps=1e-6, rope_theta=1e6, tie_word_embeddings=True, use_sliding_window=False, **shared)),
}
# Two pairs with prompts of their own, and one whose sides share nothing.
pairs = [
    ([3, 9, 9, 1, 4, 7, 22, 5], [3, 9, 9, 1, 4, 8]),
    ([2, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 1, 1, 6], [2, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 1, 7, 7, 7]),
    ([11, 12], [13, 14, 15]),
]
LAMBDA = 0.1
for name, model in models.items():
    torch.manual_seed(7)
    with torch.no_grad():
        for key, p in sorted(model.named_parameters()):
            p.copy_(1 + 0.1 * torch.randn_like(p) if "norm" in key else 0.3 * torch.randn_like(p))
    folder = here / name
    model.float().save_pretrained(folder)
    model.double()
    # transformers keeps rotary frequencies in float32; so do we.
    hidden = [model.model(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0, -1]
              for pair in pairs for ids in pair]
    hidden = torch.stack(hidden)
    rewards = model.score(hidden)[:, 0]
    w, l = rewards[0::2], rewards[1::2]
    loss = F.softplus(l - w).mean() + LAMBDA * rewards.mean() ** 2
    loss.backward()
    grads = {k: p.grad.float().contiguous() for k, p in model.named_parameters()}
    save_file(grads, folder / "gradients.safetensors")
    expected = dict(pairs=pairs, bsr_lambda=LAMBDA, hidden=hidden.tolist(), rewards=rewards.tolist(), loss=loss.item())
    (folder / "expected.json").write_text(json.dumps(expected) + "\n")
