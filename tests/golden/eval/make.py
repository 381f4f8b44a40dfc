"""Writes expected.json: calibration, length, reward and hidden-state figures by numpy and scipy.

usage: python make.py    (needs numpy and scipy; deterministic)
"""
import json
import pathlib

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import binomtest

rng = np.random.default_rng(20250507)


def calibration(margins):
    m = np.array(margins)
    confidence, right = expit(np.abs(m)), np.where(m == 0, 0.5, m > 0)
    edges = np.linspace(0.5, 1.0, 16)
    bins = np.clip(np.digitize(confidence, edges) - 1, 0, 14)
    ece = sum(abs(right[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean()
              for b in range(15) if (bins == b).any())
    temperature = None
    if m.sum() > 0 and (m < 0).any():
        slope = lambda beta: -(m * expit(-beta * m)).mean()
        high = 1.0
        while slope(high) < 0:
            high *= 2
        temperature = 1 / brentq(slope, 0.0, high, xtol=1e-300, rtol=1e-14, maxiter=1000)
    return {"margins": m.tolist(), "ece": ece, "brier": ((1 - expit(m)) ** 2).mean(),
            "nll": np.logaddexp(0, -m).mean(), "temperature": temperature}


def length(rows):
    """rows: (gold, reward, characters, elements) of each response of each prompt."""
    right, weight = {True: 0.0, False: 0.0}, {True: 0.0, False: 0.0}
    for row in rows:
        pairs = [(a, b) for a in row for b in row if a[0] > b[0]]
        for better, worse in pairs:
            if better[2] != worse[2]:
                longer = better[2] > worse[2]
                weight[longer] += 1 / len(pairs)
                right[longer] += (better[1] > worse[1]) / len(pairs)
    controlled = None
    if weight[True] and weight[False]:
        controlled = 0.5 * right[True] / weight[True] + 0.5 * right[False] / weight[False]
    centred = lambda f: np.concatenate([np.array([f(r) for r in row], float) - np.mean([f(r) for r in row])
                                        for row in rows])
    x, z = centred(lambda r: np.log2(max(r[2], 1))), centred(lambda r: r[3])
    y, std = centred(lambda r: r[1]), np.std([r[1] for row in rows for r in row])
    slope = np.linalg.lstsq(x[:, None], y, rcond=None)[0][0] / std
    effect = np.linalg.lstsq(np.stack([x, z], 1), y, rcond=None)[0][1] / std if z.any() else None
    return {"rows": rows, "reward_std": std, "controlled_accuracy": controlled, "reward_slope": slope,
            "markdown_effect": effect}


def draw_rows(prompts, k, bias, markdown):
    rows = []
    for _ in range(prompts):
        characters = rng.integers(0 if bias == 0 else 1, 2000, size=k)
        elements = rng.integers(0, markdown, size=k) if markdown else np.zeros(k, int)
        gold = np.arange(k, 0, -1.0) if k == 2 else rng.integers(0, 4, size=k).astype(float)
        if len(set(gold)) == 1:
            gold[0] += 1
        if k == 2:
            gold = np.array([1.0, 0.0])
        reward = np.round(gold + bias * np.log2(characters + 1) + 0.3 * elements + rng.normal(size=k) * 2, 3)
        rows.append([(float(g), float(r), int(c), int(e)) for g, r, c, e in zip(gold, reward, characters, elements)])
    return rows


def rewards(values):
    counts, edges = np.histogram(values, bins=32)
    return {"rewards": list(values), "counts": counts.tolist(), "edges": edges.tolist(),
            "quantiles": np.quantile(values, [0, .01, .05, .25, .5, .75, .95, .99, 1]).tolist()}


def hidden(rows):
    rows = np.round(rows, 3).astype(np.float32)
    s = np.linalg.svd(rows.astype(np.float64), compute_uv=False)
    p = s[s > 0] / s.sum()
    return {"rows": [[float(str(v)) for v in row] for row in rows], "effective_rank": np.exp(-(p * np.log(p)).sum())}


normal = lambda n, mean, std: np.round(rng.normal(mean, std, size=n), 4).tolist()
expected = {
    "calibration": [calibration(m) for m in (
        normal(200, 1, 1.5), normal(300, 8, 12), normal(50, 0.01, 0.02), normal(40, -1, 1), [1.0, 2.0, 0.5],
        [0.0, 0.0, 3.0, -1.0], [0.0, -0.0], [40.0, 50.0, -1.0], [-2.0], normal(100, 300, 400))],
    "length": [length(rows) for rows in (
        draw_rows(60, 2, 0.5, 5), draw_rows(40, 4, 0.0, 3), draw_rows(30, 3, 1.5, 0), draw_rows(4, 2, 0.2, 9))],
    "rewards": [rewards(v) for v in (normal(400, 0, 1), normal(33, -50, 20), [2.5] * 5, [0.0, 1.0], [7.0],
                                     [float(i) for i in range(33)])],
    "hidden": [hidden(rng.normal(size=(40, 12))), hidden(rng.normal(size=(8, 20))),
               hidden(rng.normal(size=(60, 3)) @ rng.normal(size=(3, 16)) + 5),
               hidden(rng.normal(size=(30, 10)) * 10.0 ** -np.arange(10)[None] * 50)],
    "mcnemar": [{"b": b, "c": c, "p": binomtest(min(b, c), b + c, 0.5).pvalue} for b, c in (
        (1, 0), (5, 0), (3, 9), (10, 25), (120, 121), (400, 520), (0, 60), (2500, 2300))],
}
pathlib.Path(__file__).with_name("expected.json").write_text(
    json.dumps(expected, separators=(",", ":")).replace('],"', '],\n"').replace('},{', '},\n{') + "\n")
