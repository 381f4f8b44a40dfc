"""The same training step in PyTorch, to stand beside `rmtrain doctor --speed`: transformers' sequence classification
model with f32 weights, gradients and AdamW under bf16 autocast, Bradley-Terry on padded pairs of random tokens, gradient checkpointing, and the fastest
attention that is installed (FlashAttention 2, else SDPA).

usage: gpu_peer.py SHAPE --tokens T --pairs B [--micro-batch P] [--steps N] [--moments f32|8-bit]
Prints one JSON line: median seconds a step, pairs/s, tokens/s, peak memory in GiB.
"""
import argparse
import importlib.util
import json
import statistics
import time

import torch
from transformers import AutoModelForSequenceClassification, LlamaConfig, Qwen2Config

#                   hidden  inner layers heads kv vocabulary
SHAPES = {
    "qwen2.5-0.5b": (896, 4864, 24, 14, 2, 151936),
    "qwen2.5-1.5b": (1536, 8960, 28, 12, 2, 151936),
    "qwen2.5-3b": (2048, 11008, 36, 16, 2, 151936),
    "qwen2.5-7b": (3584, 18944, 28, 28, 4, 152064),
    "llama-3.2-1b": (2048, 8192, 16, 32, 8, 128256),
    "llama-3.2-3b": (3072, 8192, 28, 24, 8, 128256),
    "llama-3.1-8b": (4096, 14336, 32, 32, 8, 128256),
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--micro-batch", type=int, default=4, help="pairs computed at once")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--moments", choices=["f32", "8-bit"], default="f32")
    args = parser.parse_args()

    hidden, inner, layers, heads, kv, vocabulary = SHAPES[args.shape]
    family = Qwen2Config if args.shape.startswith("qwen") else LlamaConfig
    sizes = dict(hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads)
    config = family(**sizes, num_key_value_heads=kv, vocab_size=vocabulary, num_labels=1, pad_token_id=0)
    if family is LlamaConfig:
        config.head_dim = {2048: 64, 3072: 128, 4096: 128}[hidden]
    attention = "flash_attention_2" if importlib.util.find_spec("flash_attn") else "sdpa"
    torch.set_default_device("cuda")
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation=attention)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.config.use_cache = False
    model.train()
    if args.moments == "8-bit":
        from bitsandbytes.optim import AdamW8bit

        optimizer = AdamW8bit(model.parameters(), lr=1e-6)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)

    # Two sequences a pair that share their first third, as in `rmtrain doctor --speed`.
    prompt = args.tokens // 3
    ids = torch.randint(1, vocabulary, (args.pairs, 2, args.tokens))
    ids[:, 1, :prompt] = ids[:, 0, :prompt]
    seconds = []
    torch.cuda.reset_peak_memory_stats()
    for _ in range(args.steps + 2):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for first in range(0, args.pairs, args.micro_batch):
            pairs = ids[first : first + args.micro_batch]
            with torch.autocast("cuda", torch.bfloat16):
                rewards = model(input_ids=pairs.flatten(0, 1)).logits.float().view(-1, 2)
            loss = -torch.nn.functional.logsigmoid(rewards[:, 0] - rewards[:, 1]).sum() / args.pairs
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds[2:])
    figures = {
        "shape": args.shape,
        "tokens": args.tokens,
        "attention": attention,
        "moments": args.moments,
        "seconds_per_step": median,
        "pairs_per_second": args.pairs / median,
        "tokens_per_second": 2 * args.pairs * args.tokens / median,
        "peak_memory_gib": torch.cuda.max_memory_allocated() / 2**30,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
