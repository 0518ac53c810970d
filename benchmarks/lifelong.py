"""Thousands of edits in closed form, turn after turn, on a LLaVA of 7.1 billion parameters with random weights.

UltraEdit at the `mlp.down` of three late layers, a hundred requests a turn, every turn made on the model with all
earlier ones in force (`vlmend.evaluation.sequence`), with the statistics of a life of edits. Requests are questions of
about twenty tokens with answers of one to four words; among those with pictures every five are about one of their own,
of 256 tokens. Needs a GPU for the model of that size; `--size small` shows on a CPU that it runs.

    python benchmarks/lifelong.py [--edits 20000] [--turn 100] [--requests text,pictures] [--size small] [--minutes M]
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import transformers
from mid import llava, processor, tokenizer
from PIL import Image

import vlmend
from vlmend import VLM, EditCase, Example
from vlmend.editors.ultraedit import UltraEdit
from vlmend.evaluation.protocols import protocol_of
from vlmend.evaluation.sequence import Point, sequence

SIZES = {
    "7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    "small": {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 8, "num_attention_heads": 4},
}
ENCODERS = {
    "7b": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16},
    "small": {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4},
}
WORDS = (
    *("red", "blue", "green", "old", "new", "north", "south", "river", "stone"),
    *("glass", "tower", "bridge", "garden", "market", "winter", "summer", "silver"),
)
ASKED = ("capital", "founder", "largest city", "language", "colour of the flag", "oldest school", "patron", "currency")
PIXELS, VOCABULARY, A_PICTURE = 224, 32064, 5


class Over(Exception):
    """The time that was given is over."""


def main() -> None:
    given = argparse.ArgumentParser()
    given.add_argument("--edits", type=int, default=20_000)
    given.add_argument("--turn", type=int, default=100)
    given.add_argument("--requests", default="text", help="text, pictures, or both with a comma between")
    given.add_argument("--size", choices=SIZES, default="7b")
    given.add_argument("--minutes", default="inf", help="stop at the end of the turn in which these are over, of each")
    wanted = given.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    vlm = model(wanted.size, device)
    vlm.batch_rows = wanted.turn if device == "cuda" else 32
    vlm._in_force.__dict__["base"] = "random"  # half a minute to hash; nothing is saved here
    depth = len(vlm.parts.layers)
    method = UltraEdit(layers=[depth - 4, depth - 3, depth - 2], lifelong=True)
    kinds, minutes = wanted.requests.split(","), [float(one) for one in wanted.minutes.split(",")]
    for kind, limit in itertools.zip_longest(kinds, minutes[: len(kinds)], fillvalue=minutes[-1]):
        figures = lived(vlm, method, kind == "pictures", wanted.edits, wanted.turn, 60 * float(limit))
        print(json.dumps(figures), flush=True)


def lived(vlm: VLM, method: UltraEdit, pictures: bool, edits: int, turn: int, limit: float) -> dict[str, Any]:
    """Make the edits, and say what they took."""
    cases = list(itertools.islice(requests(pictures), edits))
    method.fit(vlm, cases[:turn])  # not timed: libraries are loaded, memory is reserved
    begun, made, peak = time.monotonic(), 0, 0.0

    def advance() -> None:
        nonlocal made, peak
        made += 1
        if made % turn:
            return
        peak = max(peak, memory(vlm))
        seconds = time.monotonic() - begun
        if made % (10 * turn) == 0:
            print(f"{made} edits: {seconds:.1f} s", flush=True)
        if seconds > limit:
            raise Over

    points: list[Point] = []
    try:
        points = sequence(
            vlm,
            method,
            cases,
            at=(turn, edits),
            turn=turn,
            asked=20,
            protocol=protocol_of("legacy"),
            max_new_tokens=0,
            progress=advance,
        )
    except Over:
        print("the time is over")
    seconds = time.monotonic() - begun
    for point in points:
        kinds = {kind: summary["score"]["after"]["mean"] for kind, summary in point.retained.items()}
        print(json.dumps({"edits": point.edits, "failed": point.failed, "finite": point.finite, **kinds}))
    return {
        "edits": made,
        "pictures": pictures,
        "seconds": round(seconds, 1),
        "ms_per_edit": round(1000 * seconds / max(1, made), 2),
        "of_fitting_ms": round(points[-1].seconds_per_edit * 1000, 2) if points else None,
        "peak_gib": round(peak, 1),
        "parameters_e9": round(sum(p.numel() for p in vlm.model.parameters()) / 1e9, 2),
        "kb_per_edit": round(points[-1].bytes_per_edit / 1024, 1) if points else None,
        "device": torch.cuda.get_device_name() if vlm.device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "layers": list(method.layers),  # type: ignore[call-overload]
    }


def memory(vlm: VLM) -> float:
    """The largest until now, in GiB: of a GPU since the turn began, else of the process."""
    if vlm.device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def model(size: str, device: str) -> VLM:
    """Random weights in bfloat16 (float32 on a CPU), made where they are used."""
    tokens = tokenizer([case.request.question for case in itertools.islice(requests(False), 2000)], 2000)
    config = llava(tokens, ENCODERS[size], SIZES[size], pixels=PIXELS, vocabulary=VOCABULARY)
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if device == "cuda" else torch.float32)
    try:
        with torch.device(device):
            made = transformers.LlavaForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
    return vlmend.wrap(made, processor(tokens, PIXELS), name=f"random {size}")


def requests(pictures: bool) -> Iterator[EditCase]:
    """Questions without end, each with its answer."""
    draw = np.random.default_rng(0)
    picture: Image.Image | None = None
    for number in itertools.count():
        if pictures and number % A_PICTURE == 0:
            small = draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            picture = Image.fromarray(small).resize((PIXELS, PIXELS), Image.Resampling.BICUBIC)
        name = " ".join(draw.choice(WORDS, 3))
        question = (
            f"what is the {draw.choice(ASKED)} of the land of {name} in the year {1000 + int(draw.integers(1000))} ?"
        )
        answer = " ".join(draw.choice(WORDS, int(draw.integers(1, 5))))
        yield EditCase(str(number), Example(question, picture, answer), source="benchmark")


if __name__ == "__main__":
    main()
