"""How fast a step of preference optimisation is. See README.md beside this file.

DPO steps of 2 pairs on a LLaVA of 58 M parameters: one picture and a short prompt, answers of about 60 tokens, LoRA of
rank 32 on every linear layer of the language model, without dropout, begun alike. TRL's `DPOTrainer` and `vlmend align`
are given the same batches, one after another; of each step the log-probabilities of every answer under policy and
reference, the loss, the margin and the gradients are compared, and the CPU seconds of the fastest are taken. (AdamW's
epsilon is large, so that rounding does not decide about the sign of a step where there is next to no gradient.) Each
side runs in a process of its own, so that its peak memory is its own.

    python benchmarks/preference_step.py [--recompute]
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from meter import matmul_limit, report
from mid import mid
from PIL import Image

import vlmend
from vlmend.alignment import train
from vlmend.alignment.adapters import LoRAAdapter
from vlmend.alignment.collate import Batch
from vlmend.alignment.train import Alignment, align
from vlmend.data.records import PreferencePair

STEPS, BATCH, RANK, ALPHA, LR, EPSILON = 5, 2, 32, 64.0, 1e-4, 1e-2
ADAPTER = LoRAAdapter(rank=RANK, alpha=ALPHA, dropout=0.0)


def pairs(folder: Path, words: int = 20) -> list[PreferencePair]:
    """As many as the steps take, each with a picture of its own, a file."""
    draw = np.random.default_rng(0)
    vocabulary = ["a", "the", "cat", "dog", "red", "blue", "table", "on", "of", "large", "tree", "man", "woman", "bus"]
    found: list[PreferencePair] = []
    for number in range(STEPS * BATCH):
        picture = folder / f"{number}.png"
        Image.fromarray(draw.integers(0, 255, (336, 336, 3), dtype=np.uint8)).save(picture)
        answers = [" ".join(draw.choice(vocabulary, words)) for _ in range(2)]
        found.append(PreferencePair(str(number), "What do you see in this picture?", *answers, picture))
    return found


def ours(model: Path, folder: Path, recompute: bool, cached: bool, results: str) -> None:
    """Five steps of ours."""
    vlm = vlmend.load(str(model))
    method = Alignment(
        adapter=ADAPTER,
        lr=LR,
        steps=STEPS,
        batch=BATCH,
        warmup=0.0,
        schedule="constant",
        recompute=recompute,
        cached=cached,
        log_every=1,
        save_every=10_000,
        clip=1e9,
    )
    made: dict[str, Any] = {"seconds": [], "gradients": {}, "order": [], "said": []}
    answers = Batch.answers

    def noted(self: Batch, policy: Any, reference: Any) -> Any:
        pairs = answers(self, policy, reference)
        sides = (pairs.chosen, pairs.rejected)
        made["said"].append(
            torch.stack(
                [side.policy_BT.detach().sum(1) for side in sides] + [side.reference_BT.sum(1) for side in sides]
            )
        )
        return pairs

    Batch.answers = noted

    class Watched(train._Trainer):
        def training_step(self, model: Any, inputs: Any, num: Any = None) -> Any:
            made["order"].append([pair.id for pair in inputs["batch"].pairs])
            return super().training_step(model, inputs, num)

    _watch(
        Watched,
        made,
        lambda trainer: {
            name: [parameter.grad.clone() for parameter in getattr(trainer.model.trained, name)] for name in "ab"
        },
    )
    train._Trainer = Watched
    arguments = train._arguments
    train._arguments = lambda *given: replace(arguments(*given), adam_epsilon=EPSILON)
    run = folder / f"run-{recompute}-{cached}"
    align(vlm, pairs(folder), run, method)
    made["records"] = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
    keep(made, results)


def theirs(model: Path, folder: Path, recompute: bool, order: list[list[str]], results: str) -> None:
    """Five steps of TRL's, of the same batches from the same factors."""
    from datasets import Dataset, List
    from datasets import Image as ImageFeature
    from peft import LoraConfig, get_peft_model
    from trl import DPOConfig, DPOTrainer

    vlm = vlmend.load(str(model))
    linears = vlm.weights.linears(vlm.parts.modules("all", ("attn", "mlp")))
    names = {id(module): name for name, module in vlm.model.named_modules()}
    paths = [names[id(linear)] for linear in linears.values()]
    with ADAPTER.trained(vlm) as trained:
        a, b = ([one.detach().clone() for one in kind] for kind in (trained.a, trained.b))
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=paths)
    policy = get_peft_model(vlm.model, config)
    modules = dict(policy.named_modules())
    layers = [modules[f"base_model.model.{path}"] for path in paths]
    with torch.no_grad():
        for layer, one, other in zip(layers, a, b, strict=True):
            layer.lora_A["default"].weight.copy_(one)
            layer.lora_B["default"].weight.copy_(other)
    known = {pair.id: pair for pair in pairs(folder)}
    rows = [known[name] for some in order for name in some]
    data = Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": pair.question}],
                "chosen": [{"role": "assistant", "content": pair.chosen}],
                "rejected": [{"role": "assistant", "content": pair.rejected}],
                "images": [str(pair.image)],
            }
            for pair in rows
        ]
    ).cast_column("images", List(ImageFeature()))
    made: dict[str, Any] = {"seconds": [], "gradients": {}, "said": []}

    class Watched(DPOTrainer):
        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

        def _compute_loss(self, model: Any, inputs: Any, *more: Any, **named: Any) -> Any:
            """As ever; what it sums is its models' ``log_probs``, the policy's first."""
            found: list[torch.Tensor] = []
            hook = vlm.model.register_forward_hook(
                lambda _module, _given, output: found.append(output.log_probs.detach())
            )
            try:
                return super()._compute_loss(model, inputs, *more, **named)
            finally:
                hook.remove()
                width = inputs["completion_mask"].size(1) - 1
                both = [one[:, -width:].sum(1).chunk(2) for one in found]
                made["said"].append(torch.stack([one for sides in both for one in sides]))

    _watch(
        Watched,
        made,
        lambda _: {
            "a": [layer.lora_A["default"].weight.grad.clone() for layer in layers],
            "b": [layer.lora_B["default"].weight.grad.clone() for layer in layers],
        },
    )
    settings = DPOConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=BATCH,
        max_steps=STEPS,
        learning_rate=LR,
        adam_epsilon=EPSILON,
        lr_scheduler_type="constant",
        beta=0.1,
        max_length=None,
        gradient_checkpointing=recompute,
        bf16=False,
        use_cpu=True,
        report_to="none",
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        max_grad_norm=1e9,
        warmup_steps=0,
    )
    trainer = Watched(model=policy, args=settings, train_dataset=data, processing_class=vlm.processor)
    trainer.train()
    made["records"] = [one for one in trainer.state.log_history if "loss" in one]
    keep(made, results)


def keep(made: dict[str, Any], results: str) -> None:
    """What a process found, with its own peak memory, for the one that started it."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    torch.save({**made, "peak": peak}, results)


def _watch(kind: Any, made: dict[str, Any], gradients: Any) -> None:
    """Time every step from its begin to its end, the optimiser's part too, and keep its gradients."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.start = time.process_time()

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **named: Any) -> None:
            made["gradients"][state.global_step] = gradients(self.trainer)

        def on_step_end(self, *_: Any, **__: Any) -> None:
            made["seconds"].append(time.process_time() - self.start)

    own = kind.__init__

    def begin(self: Any, *args: Any, **named: Any) -> None:
        own(self, *args, **named)
        clock = Clock()
        clock.trainer = self
        self.add_callback(clock)

    kind.__init__ = begin


def apart(work: Any, *arguments: Any) -> dict[str, Any]:
    """What a process of its own gives."""
    with tempfile.NamedTemporaryFile() as file:
        process = get_context("spawn").Process(target=work, args=(*arguments, file.name))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(process.exitcode)
        return torch.load(file.name, weights_only=True)


def difference(one: dict[str, list[torch.Tensor]], other: dict[str, list[torch.Tensor]]) -> float:
    """How far gradients lie apart, relative to the norm of all of them."""
    both = [(a, b) for kind in ("a", "b") for a, b in zip(one[kind], other[kind], strict=True)]
    apart = sum(float((a - b).square().sum()) for a, b in both)
    return (apart / sum(float(b.square().sum()) for _, b in both)) ** 0.5


def main() -> None:
    recompute = "--recompute" in sys.argv[1:]
    limit = matmul_limit()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        mid(folder / "mid")
        run = apart(ours, folder / "mid", folder, recompute, False)
        cached = apart(ours, folder / "mid", folder, recompute, True)
        trl = apart(theirs, folder / "mid", folder, recompute, run["order"])
    best, with_cache, reference = (min(one["seconds"][1:]) for one in (run, cached, trl))
    both = list(zip(run["records"], trl["records"], strict=True))
    losses = [(one["loss"], other["loss"]) for one, other in both]
    margins = [(0.1 * one["margin"], other["rewards/margins"]) for one, other in both]
    apart_by = [difference(run["gradients"][step], trl["gradients"][step]) for step in sorted(run["gradients"])]
    said_by = [float((one - other).abs().max()) for one, other in zip(run["said"], trl["said"], strict=True)]
    largest = max(float(one.abs().max()) for one in trl["said"])
    for (loss, other), (margin, reward), by, said in zip(losses, margins, apart_by, said_by, strict=True):
        print(
            f"loss {loss:.6f}, TRL {other:.6f}; margin {margin:.6f}, TRL {reward:.6f}; gradients differ by {by:.1e}, "
            f"log-probabilities of answers by {said:.1e} of up to {largest:.0f} nats"
        )
    print(
        f"a step {best:.2f} CPU s, with cached reference {with_cache:.2f}, TRL {reference:.2f}; peak MiB "
        f"{run['peak']:.0f}, {cached['peak']:.0f}, TRL {trl['peak']:.0f}"
    )
    report(
        ratio=reference / best,
        ratio_cached=reference / with_cache,
        loss_difference=f"{max(abs(one - other) for one, other in losses):.1e}",
        margin_difference=f"{max(abs(one - other) for one, other in margins):.1e}",
        log_prob_difference=f"{max(said_by):.1e}",
        gradient_difference=f"{max(apart_by):.1e}",
        peak_mb=run["peak"],
        peak_cached_mb=cached["peak"],
        peak_trl_mb=trl["peak"],
        recompute=recompute,
        limit_gflop_per_s=limit,
    )


if __name__ == "__main__":
    main()
