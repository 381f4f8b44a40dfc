"""Writes the goldens of the chat templates with transformers 4.57 and jinja2 3.1 as the oracle.

    pip install "transformers==4.57.6" jinja2
    RMTRAIN_SHARED=../shared python tests/golden/chat_template/generate.py

expected.json   hashes of text and ids for real templates and tokenizers, which are not part of this project
features.json   full text, or the error, for the templates of feature_cases.py, which are
"""

import datetime
import hashlib
import json
import os
import pathlib
import struct
import sys

import jinja2
import transformers
from transformers import AutoTokenizer
from transformers.utils import chat_template_utils

from conversations import CONVERSATIONS
from feature_cases import CASES, MESSAGES, SPECIAL_TOKENS

HERE = pathlib.Path(__file__).resolve().parent
SHARED = pathlib.Path(os.environ.get("RMTRAIN_SHARED", HERE.parents[2] / ".." / "shared"))
DATE = datetime.datetime(2025, 3, 9)
TEMPLATES = {
    "qwen2_5": "qwen2.5",
    "qwen3": "qwen2.5",
    "llama3": "llama3",
    "llama3_1": "llama3",
    "llama3_2": "llama3",
}


class FrozenDatetime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return DATE


def expand(conversation):
    messages = [dict(m) for m in conversation["messages"]]
    if "repeat" in conversation:
        messages[-1]["content"] *= conversation["repeat"]
    return messages


def real_templates():
    rows = []
    for template, folder in TEMPLATES.items():
        tokenizer = AutoTokenizer.from_pretrained(SHARED / "tokenizers" / folder)
        source = (SHARED / "tokenizers" / "chat_templates" / f"{template}.jinja").read_text(encoding="utf-8")
        for conversation in CONVERSATIONS:
            row = {"template": template, "tokenizer": folder, "conversation": conversation["name"]}
            try:
                arguments = {"chat_template": source, "add_generation_prompt": False}
                text = tokenizer.apply_chat_template(expand(conversation), tokenize=False, **arguments)
                ids = tokenizer.apply_chat_template(expand(conversation), tokenize=True, **arguments)
                row["text_sha256"] = hashlib.sha256(text.encode()).hexdigest()
                row["ids_sha256"] = hashlib.sha256(struct.pack(f"<{len(ids)}I", *ids)).hexdigest()
                row["ids"] = len(ids)
            except Exception as e:
                row["error"] = type(e).__name__
            rows.append(row)
    return rows


def features():
    rows = []
    for name, template, *messages in CASES:
        messages = messages[0] if messages else MESSAGES
        row = {"name": name, "template": template}
        if messages is not MESSAGES:
            row["messages"] = messages
        try:
            texts, _ = chat_template_utils.render_jinja_template(
                conversations=[messages], chat_template=template, **SPECIAL_TOKENS
            )
            row["text"] = texts[0]
        except Exception as e:
            row["error"] = type(e).__name__
            if type(e) is jinja2.exceptions.TemplateError:
                row["message"] = str(e)
        rows.append(row)
    return rows


def write(name, value):
    text = json.dumps(value, ensure_ascii=False, indent=1)
    (HERE / name).write_text(text + "\n", encoding="utf-8")


def main():
    chat_template_utils.datetime = FrozenDatetime
    versions = {"transformers": transformers.__version__, "jinja2": jinja2.__version__}
    head = {"versions": versions, "date": str(DATE.date())}
    for names in [c["name"] for c in CONVERSATIONS], [c[0] for c in CASES]:
        assert len(names) == len(set(names)), "names must be unique"
    write("features.json", {**head, "special_tokens": SPECIAL_TOKENS, "messages": MESSAGES, "cases": features()})
    if "--features" not in sys.argv:
        write("conversations.json", CONVERSATIONS)
        write("expected.json", {**head, "rows": real_templates()})


if __name__ == "__main__":
    main()
