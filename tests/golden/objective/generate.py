"""Losses of the objective's terms in float64 PyTorch. Run: python generate.py > expected.in"""
import torch
import torch.nn.functional as F

w = torch.tensor([0.7, -1.2, 3.0, 0.1, -0.4], dtype=torch.float64)
l = torch.tensor([0.2, 0.9, -2.0, 0.3, -0.9], dtype=torch.float64)
losses = [
    -F.logsigmoid(w - l),
    0.01 * (w + l) ** 2,
    -F.logsigmoid(w - l) - F.logsigmoid(w) - F.logsigmoid(-l),
    -F.logsigmoid((w - l) / torch.sqrt(w**2 + l**2)),
    F.relu(1.0 - (w - l)),
]
print("[" + ", ".join(repr(x.mean().item()) for x in losses) + "]")
