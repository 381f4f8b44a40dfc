"""Writes expected.json (cases by name) and random.json (2,000 random vectors with ties, as [x, y, tau]): Kendall's
tau-b by scipy.stats.kendalltau, undefined values as null.

usage: python generate.py    (needs numpy and scipy; deterministic)
"""
import json
import math
import pathlib

import numpy as np
from scipy.stats import kendalltau

rng = np.random.default_rng(20250507)
cases = [
    ("agree", [1, 2, 3, 4], [1, 2, 3, 4]),
    ("oppose", [1, 2, 3, 4], [4, 3, 2, 1]),
    ("one side constant", [2, 2, 2, 2], [1, 2, 3, 4]),
    ("other side constant", [1, 2, 3, 4], [0, 0, 0, 0]),
    ("two items", [1, 2], [5, 4]),
    ("two items tied", [1, 1], [5, 4]),
    ("ties in x", [1, 1, 2, 3], [4, 1, 2, 3]),
    ("ties in y", [1, 2, 3, 4], [2, 2, 1, 5]),
    ("ties in both, apart", [1, 1, 2, 3], [1, 2, 2, 3]),
    ("ties in both, together", [1, 1, 2, 3], [2, 2, 1, 3]),
    ("signed zeros", [0.0, -0.0, 1.0], [1.0, 2.0, 3.0]),
    ("tiny gaps", [1.0, 1.0 + 2**-52, 1.0 + 2**-51], [3.0, 2.0, 1.0]),
    ("huge values", [-1e300, 1e300, 1e-300], [3.0, 1.0, 2.0]),
]
for n in (2, 3, 4, 4, 4, 5, 7, 17, 64, 257):
    cases.append((f"continuous, {n}", rng.normal(size=n).tolist(), rng.normal(size=n).tolist()))
    for levels in (2, 3, 5):
        x = rng.integers(0, levels, size=n).astype(float)
        y = x + rng.integers(0, levels, size=n)
        cases.append((f"{levels} levels, {n}", x.tolist(), y.tolist()))
        cases.append((f"{levels} levels against continuous, {n}", x.tolist(), rng.normal(size=n).tolist()))



def tau_b(x, y):
    tau = float(kendalltau(x, y, variant="b").statistic)
    return None if math.isnan(tau) else tau


rows = []
for name, x, y in cases:
    x, y = [float(v) for v in x], [float(v) for v in y]
    rows.append({"name": name, "x": x, "y": y, "tau": tau_b(x, y)})
out = pathlib.Path(__file__).with_name("expected.json")
out.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")

random = []
for _ in range(2000):
    n, levels = int(rng.integers(2, 15)), int(rng.integers(1, 8))
    x = rng.integers(0, levels, size=n)
    y = np.where(rng.random(n) < 0.5, x, rng.integers(0, levels, size=n))
    random.append([x.tolist(), y.tolist(), tau_b(x.astype(float), y.astype(float))])
text = ",\n".join(json.dumps(row, separators=(",", ":")) for row in random)
out.with_name("random.json").write_text(f"[\n{text}\n]\n")
