"""Writes expected.json: the maps that bitsandbytes' 8-bit AdamW quantizes its two moments with.

usage: python generate.py    (needs bitsandbytes, 0.50.2 was used; deterministic)
"""
import json
import pathlib

from bitsandbytes.functional import create_dynamic_map

maps = {name: create_dynamic_map(signed=name == "signed").tolist() for name in ("signed", "unsigned")}
path = pathlib.Path(__file__).with_name("expected.json")
path.write_text(json.dumps(maps, indent=0) + "\n")
