"""Plackett-Luce over lists with ties in float64 PyTorch. Run: python plackett_luce.py > plackett_luce.json

Each response with something worse is drawn by a softmax out of itself and all that is strictly worse.
"""
import json
import random

import torch

random.seed(0)
lists = []
for _ in range(60):
    size = random.randint(2, 8)
    gold = [float(random.randint(0, random.choice([1, 3, 50]))) for _ in range(size)]
    if len(set(gold)) == 1:
        gold[0] += 0.5
    scale = random.choice([0.1, 1.0, 10.0])
    rewards = torch.tensor([random.gauss(0.3, scale) for _ in range(size)], dtype=torch.float64, requires_grad=True)
    loss = torch.zeros((), dtype=torch.float64)
    for i in range(size):
        worse = [j for j in range(size) if gold[j] < gold[i]]
        if worse:
            loss = loss - torch.log_softmax(rewards[[i] + worse], dim=0)[0]
    loss.backward()
    lists.append({"gold": gold, "rewards": rewards.tolist(), "loss": loss.item(), "gradient": rewards.grad.tolist()})
print("[\n" + ",\n".join(json.dumps(entry) for entry in lists) + "\n]")
