"""Training against hallucination: pairs in, an `Edit` out. The loop is `transformers.Trainer`'s.

So many devices and machines (``accelerate launch``, ``torchrun``), mixed precision, resuming and loggers are its; what
is minimised, and how batches are run, is ours (`policy.py`).
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainingArguments

from vlmend.alignment.adapters import Adapter, FullAdapter, LoRAAdapter, Trained
from vlmend.alignment.collate import Collator, fitting, preflight
from vlmend.alignment.contrast import CONTRASTS
from vlmend.alignment.loggers import check_logger
from vlmend.alignment.objectives import Objective
from vlmend.alignment.policy import Policy
from vlmend.alignment.recipes import objective
from vlmend.alignment.reference import asked_of
from vlmend.alignment.sharded import as_one_unit, check_sharding, in_pieces, mine, sharding_asked
from vlmend.data.identity import identity_of_pairs
from vlmend.data.records import PreferencePair, SkippedPair
from vlmend.edits.edit import Edit, library_versions
from vlmend.errors import EditError, UnknownNameError, VlmendError
from vlmend.models.parts import ROLES
from vlmend.models.vlm import VLM
from vlmend.ranks import Ranks
from vlmend.runs import Run
from vlmend.words import counted

__all__ = ["DOING", "SCHEDULES", "Alignment", "align", "settings_of"]

DOING = ("looking at the pairs", "asking the reference", "training")
_EDIT, _CHECKPOINTS, _REFERENCE = "edit", "checkpoints", "reference"

SCHEDULES = (
    *("linear", "cosine", "cosine_with_restarts", "polynomial"),
    *("constant", "constant_with_warmup", "inverse_sqrt"),
)
"""How a learning rate may fall: those of transformers that need nothing but the number of steps."""

_SEEDS = 2**32  # numpy takes none above


@dataclass(frozen=True)
class Alignment:
    """How a model is trained on pairs.

    Attributes:
        objective: what is minimised, as `vlmend.alignment.recipes.objective` reads it.
        adapter: what is trained.
        lr: the highest learning rate, of AdamW.
        epochs: how often every pair comes; ``steps`` above 0 says instead how many steps there are.
        steps: see there.
        batch: pairs at once, on one device.
        accumulate: batches in a step.
        warmup: share of the steps in which the learning rate rises.
        schedule: how it falls afterwards, one of `SCHEDULES`.
        weight_decay, clip: AdamW's, and the largest norm of a gradient; 0 clips none.
        cached: whether the reference is asked about everything beforehand; else it is run beside the policy.
        contrast: how pictures of the weakened side come about, one of `CONTRASTS`.
        recompute: run layers again on the way back: less memory, a third more work.
        bf16: run in bfloat16 where that is safe, by autocast.
        longest: most tokens of a prompt with its answer; longer pairs are left out, never cut. 0: the model's limit.
        save_every: steps from one checkpoint to the next.
        log_every: steps from one record to the next.
        seed: of the order of pairs, of what is drawn first, and of dropout.

    Raises:
        VlmendError: a setting is out of its range, or the objective is not understood.
    """

    objective: str = "bpo"
    adapter: Adapter = field(default_factory=LoRAAdapter)
    lr: float = 1e-5
    epochs: float = 1.0
    steps: int = 0
    batch: int = 4
    accumulate: int = 1
    warmup: float = 0.03
    schedule: str = "cosine"
    weight_decay: float = 0.0
    clip: float = 1.0
    cached: bool = False
    contrast: str = "crop"
    recompute: bool = False
    bf16: bool = False
    longest: int = 0
    save_every: int = 100
    log_every: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batch", "accumulate", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise VlmendError(f"{name} is at least 1, not {getattr(self, name)}")
        for name in ("steps", "longest", "weight_decay", "clip"):
            if not 0 <= getattr(self, name) < math.inf:
                raise VlmendError(f"{name} is a number from 0 on, not {getattr(self, name)}")
        if not 0 <= self.warmup < 1:
            raise VlmendError(f"warmup is a share of the steps, at least 0 and below 1, not {self.warmup}")
        if not 0 <= self.seed < _SEEDS:
            raise VlmendError(f"seed is a whole number from 0 to {_SEEDS - 1}, not {self.seed}")
        if self.schedule not in SCHEDULES:
            raise UnknownNameError("schedule", self.schedule, SCHEDULES)
        if not 0 < self.lr < math.inf:
            raise VlmendError(f"lr is a number above 0, not {self.lr}")
        if not 0 <= self.epochs < math.inf or not (self.steps or self.epochs):
            raise VlmendError("there must be a step: epochs above 0, or steps above 0")
        if self.contrast not in CONTRASTS:
            raise UnknownNameError("contrast", self.contrast, CONTRASTS)
        if self.what.needs_reference and not self.cached and isinstance(self.adapter, FullAdapter):
            raise VlmendError(
                f"objective '{self.objective}' compares with the weights that are trained: set cached=true, "
                "so that these are asked before they change"
            )

    @property
    def what(self) -> Objective:
        """The objective that is meant."""
        return objective(self.objective)


def align(
    vlm: VLM,
    pairs: Sequence[PreferencePair],
    folder: Path | str,
    method: Alignment | None = None,
    *,
    source: str = "",
    left_out: Sequence[SkippedPair] = (),
    report_to: str = "none",
    progress: Callable[[str, int, int], None] = lambda _what, _done, _all: None,
) -> Edit:
    """Train a model on pairs; the model itself is left bit for bit as it was.

    The folder is that of a run (`vlmend.runs`), with a record for every logged step and the result in ``edit``; a
    training that was cut short there goes on from its last checkpoint. Under a launcher every process calls this.

    Args:
        vlm: the model, with the edits that are to be in force.
        pairs: what it is trained on; those that it cannot be trained on are left out (`fitting`) and listed.
        folder: made if absent.
        method: how.
        source: where the pairs are from, to be kept with the result.
        left_out: what was left out before, when they were read, to be listed too.
        report_to: a logger that transformers knows (tensorboard, wandb, trackio).
        progress: called with what is being done, one of `DOING`, and how much of it is done, of all.

    Raises:
        VlmendError: no pair is left, the model cannot be trained so, or the logger's package is not installed.
        EditError: the training diverges.
        RunError: the folder holds another training.
    """
    check_logger(report_to)
    method, ranks, folder = method or Alignment(), Ranks.launched(), Path(folder)
    what = method.what
    check_sharding(vlm.device, weights=isinstance(method.adapter, FullAdapter))
    _check_card(vlm.device)
    kept, unfit = fitting(vlm, pairs, method.longest or None, partial(progress, DOING[0]), what=what)
    skipped = [*left_out, *unfit]
    if not kept:
        place = f"{source}: " if source else ""
        why = f"; why not the first, '{skipped[0].id}': {skipped[0].reason}" if skipped else ""
        raise VlmendError(f"{place}of {counted(len(skipped), 'pair')} none can be trained on{why}")
    settings = {
        "model": vlm.name,
        "fingerprint": vlm.fingerprint,
        "edits": list(vlm.active_edits),
        "pairs": {**identity_of_pairs(pairs), "source": source},
        "skipped": [dataclasses.asdict(one) for one in skipped],
        "settings": settings_of(method),
        "processes": ranks.count,
        **({"sharded": True} if sharding_asked() else {}),
        "versions": library_versions(),
    }
    contrast = CONTRASTS[method.contrast]
    collator = Collator(vlm, what.sides, spans=what.needs_spans, contrast=contrast, seed=method.seed)
    with Run(folder, settings, ranks) as run:
        if (folder / _EDIT / "edit.json").exists():
            return Edit.load(folder / _EDIT)
        preflight(vlm, collator.batch(kept[: method.batch]))
        references = None
        if method.cached and what.needs_reference:
            with torch.autocast(vlm.device.type, torch.bfloat16, enabled=method.bf16):
                references = asked_of(
                    vlm,
                    collator,
                    kept,
                    folder / _REFERENCE,
                    ranks=ranks,
                    batch=method.batch,
                    progress=partial(progress, DOING[1]),
                )
        # Whether rows can be run from their beginnings is found out now: dropout would spoil the comparison, and the
        # comparison the draws of a training that goes on.
        vlm.run(collator.batch(kept[: method.batch]).prepared)
        torch.manual_seed(method.seed)
        with method.adapter.trained(vlm) as trained:
            last = _last_checkpoint(folder / _CHECKPOINTS, ranks)
            policy = Policy(vlm, trained, what, references, recompute=method.recompute, fresh=last is None)
            trainer = _Trainer(policy, method, kept, collator, run, report_to, partial(progress, DOING[2]), vlm.device)
            trainer.train(resume_from_checkpoint=None if last is None else str(last))
            edit = _edit(vlm, method, trained, settings, kept, skipped, source)
        final = dict(run.records[-1]) if run.records else {}
        if ranks.first:
            edit.save(folder / _EDIT)
        run.finish({**final, "steps": trainer.state.global_step, "edit": edit.id})
        ranks.wait()
    return edit


class _Trainer(Trainer):
    """transformers' loop over our batches, with our records."""

    def __init__(
        self,
        policy: Policy,
        method: Alignment,
        pairs: Sequence[PreferencePair],
        collator: Collator,
        run: Run,
        report_to: str,
        progress: Callable[[int, int], None],
        device: torch.device,
    ) -> None:
        self._policy = policy
        self._run = run
        self._progress = progress
        self._moved = False
        self._logged = max((int(record["step"]) for record in run.records), default=0)
        super().__init__(
            model=policy,
            args=_arguments(method, run.folder / _CHECKPOINTS, report_to, device),
            data_collator=collator,
            train_dataset=list(pairs),  # type: ignore[arg-type]
        )
        self.remove_callback(PrinterCallback)
        if self.is_fsdp_enabled:
            as_one_unit(self.accelerator.state.fsdp_plugin)

    def compute_loss(self, model: Any, *args: Any, **named: Any) -> Any:
        """As ever; of what is in pieces accelerate casts parameters alone, so that autocast is ours there."""
        with self.accelerator.autocast() if in_pieces(model) else nullcontext():
            return super().compute_loss(model, *args, **named)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """As ever; a loss that is not finite ends it, and so does a first one without gradient.

        Raises:
            EditError: see above.
        """
        loss = super().training_step(model, inputs, num_items_in_batch)
        if not bool(torch.isfinite(loss)):
            raise EditError(f"the training diverged: a smaller learning rate than {self.args.learning_rate} is needed")
        if not self._moved and self.accelerator.sync_gradients:  # before, pieces have no gradients yet
            gradients = [mine(one.grad) for one in self._policy.parameters() if one.grad is not None]
            moved = torch.tensor([any(bool(one.any()) for one in gradients)], device=loss.device)
            self._moved = bool(self.accelerator.gather(moved).any())  # type: ignore[union-attr]
            if not self._moved:
                raise EditError("the loss does not depend on what is trained: no gradient reaches it")
        self._progress(self.state.global_step + 1, self.state.max_steps)
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add what the pairs were like to what is logged, and write one record a step; of a training that goes on,
        those steps that are written already are not written again."""
        if "loss" in logs:
            means = self._policy.means()
            if means:
                each = self.accelerator.gather(torch.stack(list(means.values()))[None])
                logs |= dict(zip(means, each.mean(0).tolist(), strict=True))  # type: ignore[union-attr]
                logs["processes"] = len(each)
            step = self.state.global_step
            if step > self._logged and self.is_world_process_zero():
                self._run.append({"step": step, **logs})
                self._logged = step
        super().log(logs, start_time)


def _check_card(device: torch.device) -> None:
    """Trainer takes the card of this process's number, alone the first.

    Raises:
        VlmendError: the model is on another.
    """
    own = int(os.environ.get("LOCAL_RANK", "0"))
    if device.type == "cuda" and device.index not in (None, own):
        raise VlmendError(f"a training runs on cuda:{own}, not {device}: choose the card by CUDA_VISIBLE_DEVICES")


def _arguments(method: Alignment, folder: Path, report_to: str, device: torch.device) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=method.batch,
        gradient_accumulation_steps=method.accumulate,
        learning_rate=method.lr,
        num_train_epochs=method.epochs,
        max_steps=method.steps or -1,
        warmup_steps=method.warmup,
        lr_scheduler_type=method.schedule,
        weight_decay=method.weight_decay,
        max_grad_norm=method.clip,
        bf16=method.bf16,
        seed=method.seed,
        data_seed=method.seed,
        save_strategy="steps",
        save_steps=method.save_every,
        save_total_limit=1,
        logging_steps=method.log_every,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        report_to=report_to,
        remove_unused_columns=False,
        disable_tqdm=True,
        use_cpu=device.type == "cpu",
        dataloader_pin_memory=False,  # batches are records, which find their own way to the device
        # pairs without a picture do not reach what stands before the decoder
        ddp_find_unused_parameters=bool({*method.adapter.modules} - ROLES.keys()),
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # type: ignore[reportPrivateUsage] - it would copy what is trained
    return arguments


def _last_checkpoint(folder: Path, ranks: Ranks) -> Path | None:
    """The last one that was written whole: its state is written last, and every process's draws by itself."""
    draws = [f"rng_state_{index}.pth" for index in range(ranks.count)] if ranks.count > 1 else []
    found = [
        path.parent
        for path in folder.glob("checkpoint-*/trainer_state.json")
        if all(one.is_file() and one.stat().st_size for one in (path, *(path.with_name(name) for name in draws)))
    ]
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def settings_of(method: Alignment) -> dict[str, Any]:
    """All that was set, as JSON values."""
    own = {one.name: getattr(method, one.name) for one in dataclasses.fields(method) if one.name != "adapter"}
    adapter: Any = method.adapter
    return {**own, "adapter": {"kind": type(adapter).__name__, **dataclasses.asdict(adapter)}}


def _edit(
    vlm: VLM,
    method: Alignment,
    trained: Trained,
    settings: Mapping[str, Any],
    kept: Sequence[PreferencePair],
    skipped: Sequence[SkippedPair],
    source: str,
) -> Edit:
    return Edit(
        base=vlm.fingerprint,
        ops=(trained.op(),),
        method=f"align {method.objective}",
        settings=settings["settings"],
        model=vlm.name,
        fitted_on=vlm.active_edits,
        chosen={
            "pairs": {"count": len(kept), "skipped": len(skipped), "source": source, "why": _counted(kept, skipped)}
        },
    )


def _counted(kept: Sequence[PreferencePair], skipped: Sequence[SkippedPair]) -> str:
    return f"{len(kept)} that it can be trained on" + (f"; {len(skipped)} left out" if skipped else "")
