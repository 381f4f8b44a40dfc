"""A small random ArmoRM with what PyTorch says of a few conversations, everything computed in float64.

The backbone is transformers' LlamaModel; the head is the published formulae (arXiv 2406.12845, and the tensors of
RLHFlow/ArmoRM-Llama3-8B-v0.1), written anew: objectives r = R h_last, gate g = scale softmax(MLP(h_header) / temperature)
with ReLU between the layers, where h_header is the state at which the last assistant header starts, score = g . (r T).
Bytes are the vocabulary, so the header has more tokens than Llama 3's five and config.json names them. Weights are
float32. Run: python make.py (writes beside itself). Needs torch, transformers 4.57, safetensors.
"""
import json
import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

here = pathlib.Path(__file__).parent
H, OBJECTIVES, GATE, GATE_LAYERS, TEMPERATURE, SCALE = 32, 19, 24, 3, 2.5, 1.75
SPECIAL = ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "[PAD]"]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
)


def byte_characters():
    """The printable characters that stand for bytes in byte-level vocabularies."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b if b in printable else 256 + others.index(b)) for b in range(256)]


def write_tokenizer():
    byte_level = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=False)
    added = [dict(id=256 + i, content=t, single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
             for i, t in enumerate(SPECIAL)]
    vocabulary = {c: i for i, c in enumerate([*byte_characters(), *SPECIAL])}
    model = dict(type="BPE", dropout=None, unk_token=None, continuing_subword_prefix=None, end_of_word_suffix=None,
                 fuse_unk=False, byte_fallback=False, vocab=vocabulary, merges=[])
    whole = dict(version="1.0", truncation=None, padding=None, added_tokens=added, normalizer=None,
                 pre_tokenizer=byte_level, post_processor=None, decoder=byte_level, model=model)
    (here / "tokenizer.json").write_text(json.dumps(whole, ensure_ascii=False) + "\n")
    settings = dict(tokenizer_class="PreTrainedTokenizerFast", bos_token=SPECIAL[0], eos_token=SPECIAL[1],
                    pad_token=SPECIAL[4], chat_template=TEMPLATE, clean_up_tokenization_spaces=False)
    (here / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n")
    return PreTrainedTokenizerFast.from_pretrained(here)


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


# Rows of responses to one prompt; the second prompt has a turn of the assistant in it, so that headers occur twice.
rows = [
    ([user("Name a colour.")], ["Blue.", "Blue, as the sky is on a clear day.", "é"]),
    ([user("1 + 1?"), assistant("2"), user("And 2 + 2?")], ["4", "It is 4.\n\nassistant"]),
    ([{"role": "system", "content": "Be brief."}, user("Why?")], ["Because.", ""]),
]

tokenizer = write_tokenizer()
header = tokenizer.encode("<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n", add_special_tokens=False)
config = LlamaConfig(
    vocab_size=256 + len(SPECIAL), hidden_size=H, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=512, rms_norm_eps=1e-5, rope_theta=500000.0,
    tie_word_embeddings=False, pad_token_id=260, bos_token_id=256, eos_token_id=257)
torch.manual_seed(11)
backbone = LlamaModel(config).float()
with torch.no_grad():
    for name, p in sorted(backbone.named_parameters()):
        p.copy_(1 + 0.1 * torch.randn_like(p) if "norm" in name else 0.3 * torch.randn_like(p))
head = {"regression_layer.weight": 0.3 * torch.randn(OBJECTIVES, H),
        "reward_transform_matrix": torch.eye(OBJECTIVES) + 0.2 * torch.randn(OBJECTIVES, OBJECTIVES),
        "gating.logit_scale": torch.tensor([SCALE])}
widths = [H] + [GATE] * GATE_LAYERS + [OBJECTIVES]
for i, (width_in, width_out) in enumerate(zip(widths, widths[1:])):
    head[f"gating.layers.{i}.weight"] = 0.5 * torch.randn(width_out, width_in)
    head[f"gating.layers.{i}.bias"] = 0.5 * torch.randn(width_out)
weights = {f"model.{k}": v.detach().clone().contiguous() for k, v in backbone.state_dict().items()}
save_file({**weights, **head}, here / "model.safetensors", metadata={"format": "pt"})
published = config.to_diff_dict()
published.update(architectures=["LlamaForRewardModelWithGating"], model_type="llama", num_objectives=OBJECTIVES,
                 gating_hidden_dim=GATE, gating_n_hidden=GATE_LAYERS, gating_temperature=TEMPERATURE,
                 gating_token_pattern=header, id2label={str(i): f"LABEL_{i}" for i in range(OBJECTIVES)})
(here / "config.json").write_text(json.dumps(published, indent=1, sort_keys=True) + "\n")

backbone.double()
head = {name: tensor.double() for name, tensor in head.items()}


def judge(ids):
    states = backbone(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0]
    rewards = head["regression_layer.weight"] @ states[-1]
    start = max(i for i in range(len(ids)) if ids[i:i + len(header)] == header)
    x = states[start]
    for i in range(GATE_LAYERS + 1):
        x = head[f"gating.layers.{i}.weight"] @ x + head[f"gating.layers.{i}.bias"]
        x = F.relu(x) if i < GATE_LAYERS else x
    gate = F.softmax(x / TEMPERATURE, dim=0) * head["gating.logit_scale"][0]
    score = gate @ (rewards @ head["reward_transform_matrix"])
    return dict(rewards=rewards.tolist(), gate=gate.tolist(), score=score.item())


expected = []
with torch.no_grad():
    for prompt, responses in rows:
        ids = [tokenizer.apply_chat_template([*prompt, assistant(text)], tokenize=True) for text in responses]
        expected.append(dict(prompt=prompt, responses=responses, ids=ids, judged=[judge(i) for i in ids]))
(here / "expected.json").write_text(json.dumps(expected, ensure_ascii=False) + "\n")
