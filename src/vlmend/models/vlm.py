"""One loaded vision-language model: prepare examples, run them, generate, and put edits in force.

Everything that runs goes through here, so that batches, pictures and edits are handled in one place.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import GenerationConfig

from vlmend.errors import VlmendError
from vlmend.models.active import Active, Applicable, Edits, InForce
from vlmend.models.batching import by_opening, of_like_length
from vlmend.models.begun import Begun
from vlmend.models.contrast import Contrast
from vlmend.models.feeding import feeder_of
from vlmend.models.greedy import GREEDY, follow, takes_the_likeliest
from vlmend.models.intervene import Plan, acting, first_stage, plan
from vlmend.models.logits import Rewrite
from vlmend.models.mixing import Mixer, Query, mixed, stepwise
from vlmend.models.outputs import Question, Reply, RowOutput, RunOutput, row_output
from vlmend.models.parts import Parts
from vlmend.models.prefix import Cut
from vlmend.models.prepared import Asked, Batch, Prepared, Preparer, Row, Shared
from vlmend.models.prompts import Prompter
from vlmend.models.running import Reused, Runner
from vlmend.models.sampling import Draws, Sampling
from vlmend.models.telling import Teller
from vlmend.models.weights import Weights, WeightsOperation, shared_change

__all__ = ["VLM"]

_NEVER = -100.0  # log probability of what a given answer does not say; finite, so that divergences are


class VLM:
    """A loaded model with its processor; see `vlmend.load`.

    Attributes:
        name: what it was loaded as.
        model, processor, tokenizer: the transformers objects.
        parts: where its parts are.
        weights: its tensors by on-disk name, and the edits in force.
        batch_rows: how many rows are run at once.
    """

    def __init__(self, name: str, model: Any, processor: Any, parts: Parts, prompter: Prompter) -> None:
        self.name = name
        self.model = model
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.parts = parts
        self.weights = Weights(model, parts)
        self.batch_rows = 32
        self._in_force = InForce(parts, self.weights)
        self._shared: Shared | None = None
        self._ends = _end_tokens(model, self.tokenizer)
        self._preparer = Preparer(processor, prompter, parts.image_token, self._ends, parts.in_stream)
        self._feeder = feeder_of(model, parts)
        self._teller = Teller(parts, self.tokenizer, self._preparer, self._feeder)
        self._mixer = Mixer(parts, self.tokenizer, self._feeder)
        self._begun = Begun(parts, self.weights, self._preparer, self._feeder)
        self._runner = Runner(parts, self.weights, self._preparer, self._feeder, self._begun)

    @property
    def fingerprint(self) -> str:
        """Hash of the weights without edits, over tensors named as on disk."""
        return self._in_force.base

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    @property
    def ends(self) -> tuple[int, ...]:
        """Tokens that end an answer."""
        return self._ends

    @property
    def longest(self) -> int | None:
        """For how many tokens, prompt and answer, the model is made; ``None`` where its configuration does not say."""
        found: Any = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return found if isinstance(found, int) else None

    def prepare(self, examples: Sequence[Asked]) -> Prepared:
        """Tokenise examples; pictures of equal content are encoded once for all that is done with the result.

        Rows have the texts that edits in force put before their questions. If other edits are in force when they are
        run, they are run with theirs.

        Raises:
            PromptError: an example cannot be turned into this model's input.
        """
        shared = self._shared
        asked = self._preparer.prepare(examples) if shared is None else shared.prepare(self._preparer, examples)
        return self._teller.told(asked, self._in_force.plans(asked.rows, None, ()))

    @contextmanager
    def sharing(self) -> Generator[None, None, None]:
        """Within the block equal examples are prepared once and their pictures encoded once, and what was run of them
        once is known to all that is prepared there."""
        before, self._shared = self._shared, self._shared or Shared()
        try:
            yield
        finally:
            self._shared = before

    @property
    def shares(self) -> bool:
        """Whether this is within `sharing`."""
        return self._shared is not None

    def encode(self, prepared: Prepared) -> None:
        """Encode all pictures now and together; else it is done as they are needed."""
        with torch.no_grad():
            self._feeder.features(list(prepared.pictures), prepared)

    def features(self, prepared: Prepared) -> list[Tensor | None]:
        """What of every row's pictures the decoder is shown, [S, D] each; ``None`` without a picture."""
        keys = (row.picture for row in prepared.rows)
        return [None if key is None else self._feeder.visual_states(key, prepared) for key in keys]

    def keys(self, prepared: Prepared) -> Tensor:
        """What rows are compared by, their questions and their pictures (see `Teller.key`): [B, 2, D]."""
        return torch.stack([self._teller.key(row, prepared) for row in prepared.rows])

    def queries(self, prepared: Prepared) -> list[Query]:
        """What rows ask, as what changes logits is given it (`Mixer.queries`); nothing of their answers."""
        return self._mixer.queries(prepared)

    def run(
        self,
        prepared: Prepared,
        edits: Edits = None,
        *,
        ops: Sequence[Any] = (),
        grad: bool = False,
        first: int | None = None,
        share_first: bool = False,
        keep: Collection[int] = (),
        keep_beginnings: bool = False,
    ) -> RunOutput:
        """Teacher-forced logits at the answers' positions, padded batches inside.

        Args:
            prepared: rows with answers; a row without one gives an output of length 0.
            edits: in force for all rows, or one for each row, on top of those already in force.
            ops: operations that act on all rows after these: those of an edit that is being made.
            grad: keep the graph, so that gradients reach whatever requires them.
            first: the first stage (`first_stage`) that this run and others of the same rows may differ in. What comes
                before is run once and kept with ``prepared``; a change of weights there is noticed, of hooks it is not.
            share_first: run that from what rows begin with, which is kept with ``prepared`` too; the same but for
                rounding.
            keep: further stages that later runs will begin at.
            keep_beginnings: keep what rows begin with, up to their picture, with ``prepared``: later runs with the
                same edits go on from there.
        """
        plans = self._in_force.plans(prepared.rows, edits, ops)
        prepared = self._teller.told(prepared, plans)
        mixings = self._mixer.mixings(prepared, [() if one.answer is not None else one.logits for one in plans])
        outputs: dict[int, RowOutput] = {}
        stages = {stage for stage in (first or 0, *keep) if stage > 0}
        for weights, indices in _grouped(plans):
            with self.weights.folded(weights), torch.set_grad_enabled(grad):
                begun = self._begun.run(
                    prepared,
                    plans,
                    indices,
                    stages,
                    self.batch_rows,
                    self._runner.whole,
                    lasting=keep_beginnings and not (grad or ops),
                    settled=not (grad or ops),
                )
                outputs.update({index: row_output(prepared.rows[index], found) for index, found in begun.items()})
                rest = {index: prepared.rows[index] for index in indices if index not in outputs}
                for some in of_like_length(rest, self.batch_rows):
                    acts = [plans[index] for index in some]
                    part, reused = prepared.take(some), Reused(first or 0, keep, share_first, self.shares)
                    batch = self._runner.run(part, acts, reused)
                    outputs.update(zip(some, batch, strict=True))
        with torch.set_grad_enabled(grad):
            outputs |= {index: mixed(outputs[index], one) for index, one in mixings.items()}
        for index, one in enumerate(plans):
            if one.answer is not None:
                outputs[index] = self._said(prepared.rows[index], one.answer)
        return RunOutput(tuple(outputs[index] for index in range(len(prepared))))

    def logits(self, prepared: Prepared, keep: int) -> Tensor:
        """Logits of the last ``keep`` positions of rows with their answers, in one batch that is padded on the left:
        [B, keep, vocabulary]. The model is run as it is called, with the weights and hooks of now."""
        return self._runner.logits(prepared, keep)

    def states_from_beginnings(self, prepared: Prepared, layers: Sequence[int]) -> list[list[Tensor]] | None:
        """See `Begun.states`."""
        return self._begun.states(prepared, layers)

    def cut(self, prepared: Prepared) -> Cut | None:
        """See `Begun.cut`."""
        return self._begun.cut(prepared)

    def blank(self, prepared: Prepared) -> Prepared:
        """The same rows with their pictures' shapes alone, for runs in which what pictures show is known further up."""
        return self._feeder.blank(prepared)

    def first_stage(self, ops: Sequence[Any]) -> int:
        """The first stage of a run that operations act on: 2k before layer k, 2k + 1 behind its attention, at last 2n
        before the norm. Runs with and without the operations are equal before it."""
        return min(first_stage(ops, self.weights), 2 * len(self.parts.layers))

    def generate(
        self, prepared: Prepared, edits: Edits = None, *, ops: Sequence[Any] = (), max_new_tokens: int = 32
    ) -> list[str]:
        """Greedy answers to the prompts (given answers are ignored), with a cache; each ends at an end token."""
        return [reply.text for reply in self.replies(prepared, edits, ops=ops, max_new_tokens=max_new_tokens)]

    def replies(
        self,
        prepared: Prepared,
        edits: Edits = None,
        *,
        ops: Sequence[Any] = (),
        max_new_tokens: int = 32,
        sampling: Sampling | Draws | None = None,
        against: Contrast | None = None,
    ) -> list[Reply]:
        """As `generate`, with the answers' tokens; with ``sampling`` they are drawn, ``against`` other rows they are
        said by the contrast, which goes with `Draws` and with what is likeliest.

        Raises:
            VlmendError: the contrast has not one row for each of these, or goes with `Sampling`.
        """
        if against is not None and (isinstance(sampling, Sampling) or len(against.other) != len(prepared)):
            raise VlmendError("a contrast takes one other row for each row, and draws by a row's own seed")
        settings = GenerationConfig(
            **(GREEDY if sampling is None else sampling.settings),
            max_new_tokens=max_new_tokens,
            eos_token_id=list(self._ends),
            pad_token_id=self.tokenizer.pad_token_id,
            suppress_tokens=[self.parts.image_token],  # a picture cannot be said
        )
        plans = self._in_force.plans(prepared.rows, edits, ops)
        prepared = self._teller.told(prepared, plans)
        replies = {
            index: Reply(one.answer.strip(), tuple(self._answered(prepared.rows[index], one.answer)))
            for index, one in enumerate(plans)
            if one.answer is not None
        }
        mixings = self._mixer.mixings(prepared, [() if one.answer is not None else one.logits for one in plans])
        for weights, indices in _grouped(plans):
            with self.weights.folded(weights), torch.no_grad():
                asked = {index: prepared.rows[index] for index in indices}
                for some in by_opening(asked, max(1, self.batch_rows // (1 if against is None else 2))):
                    rows, places = prepared.take(some), some
                    if against is not None:
                        other = self._teller.told(against.other, plans)
                        rows, places = rows.joined(other.take(some)), some * 2
                    batch = self._preparer.batch(rows.rows, with_targets=False)
                    mine = {place: mixings[index] for place, index in enumerate(places) if index in mixings}
                    rewrite = stepwise(mine, self._ends) if mine else None
                    if against is not None:
                        rewrite = against.both(rewrite, None if sampling is None else sampling.after(None, some))
                    elif sampling is not None:
                        rewrite = sampling.after(rewrite, some)
                    answer = partial(self._generated, rows, batch, settings, rewrite, sampling)
                    new_BN = self._begun.generate(rows, [plans[index] for index in places], answer)[: len(some)]
                    replies.update(zip(some, map(self._reply, new_BN.tolist()), strict=True))
        return [replies[index] for index in range(len(prepared))]

    def _generated(
        self,
        rows: Prepared,
        batch: Batch,
        settings: GenerationConfig,
        rewrite: Rewrite | None,
        sampling: Sampling | Draws | None,
        plans: Sequence[Plan],
    ) -> Tensor:
        drawing = nullcontext() if sampling is None else sampling.drawing(self.device)
        with drawing, acting(self.parts, rows.rows, plans, with_targets=False):
            return self._feeder.generate(batch, rows, settings, rewrite)

    def following(self, row: Row, tokens: Sequence[int] | str) -> Row:
        """The row with another answer: some tokens, or a text and what closes the turn."""
        said = self._answered(row, tokens) if isinstance(tokens, str) else list(tokens)
        return replace(row, target_N=row.ids_T.new_tensor(said), answer_length=len(said))

    def going_on(self, row: Row, tokens: Sequence[int]) -> Row:
        """The row with an answer begun: what it generates goes on behind these tokens. They are no part of that."""
        return self._preparer.begun(row, tokens)

    def followed(self, outputs: Sequence[RowOutput], *, max_new_tokens: int) -> list[Reply | None]:
        """What greedy decoding says to rows, as far as their teacher-forced outputs tell; see `greedy.follow`.

        Returns:
            for each the answer, or how it begins (``ended`` is false); ``None`` where only generation can tell: two
            tokens are nearly alike, or the checkpoint's settings have a say.
        """
        if not takes_the_likeliest(self._feeder.speaker):
            return [None] * len(outputs)
        never, coarse = self.parts.image_token, self.model.dtype != torch.float32
        found = [
            follow(
                row.logits_NV, row.target_N.tolist(), ends=self._ends, never=never, limit=max_new_tokens, coarse=coarse
            )
            for row in outputs
        ]
        return [one and Reply(self.text_of(one.tokens), one.tokens, one.ended) for one in found]

    @property
    def goes_on_cheaply(self) -> bool:
        """Whether rows are known to be run from beginnings that are run once, so that one more guess costs little."""
        return bool(self._begun.holds)

    @property
    def last_shared_stage(self) -> int:
        """The stage (`first_stage`) behind the last layer's attention: what comes before it is kept best, row by row
        and only where answers are predicted."""
        return self._begun.alone

    def acts_on(self, edit: Applicable, row: Row) -> bool:
        """Whether an edit does anything to a row."""
        return plan(edit.ops, row) != Plan()

    def answer(self, image: str | Path | Image.Image | None, question: str, *, max_new_tokens: int = 32) -> str:
        """The model's greedy answer to one question, with the edits in force."""
        picture = Path(image) if isinstance(image, str) else image
        return self.generate(self.prepare([Question(question, picture)]), max_new_tokens=max_new_tokens)[0]

    def apply(self, edit: Applicable) -> Active:
        """Put an edit in force until the handle's ``undo``, in any order with others.

        Raises:
            FingerprintError: it was made for other weights.
            EditError: it cannot be applied to this model; nothing is changed then.
        """
        return self._in_force.add(edit)

    def check(self, edit: Applicable) -> None:
        """Refuse an edit that cannot be applied to this model.

        Raises:
            FingerprintError: it was made for other weights.
            EditError: it names what this model does not have.
        """
        self._in_force.check(edit)

    @property
    def active_edits(self) -> tuple[str, ...]:
        """Ids of the edits in force, in their order."""
        return tuple(edit.id for edit in self._in_force.edits)

    @property
    def ops_in_force(self) -> tuple[Any, ...]:
        """The operations of the edits in force, in their order."""
        return tuple(op for edit in self._in_force.edits for op in edit.ops)

    @contextmanager
    def without(self, kind: type) -> Generator[VLM, None, None]:
        """The model with all that edits in force do, but for operations of one kind that change no weights."""
        with self._in_force.without(kind):
            yield self

    @contextmanager
    def bare(self) -> Generator[VLM, None, None]:
        """The model with no edit in force; afterwards all that were are again, in their order, bit for bit."""
        with self._in_force.lifted():
            yield self

    @contextmanager
    def using(self, edit: Applicable | None) -> Generator[VLM, None, None]:
        """The model with an edit in force; afterwards it is bit for bit what it was, also after an exception."""
        if edit is None:
            yield self
            return
        handle = self.apply(edit)
        try:
            yield self
        finally:
            handle.undo()

    def _said(self, row: Row, answer: str) -> RowOutput:
        """The output of a model that is sure of an answer, whatever it is asked: probability 1 for its tokens."""
        count = len(row.target_N)
        tokens = [*self._answered(row, answer), *[self._ends[0]] * count][:count]
        logits_NV = torch.full((count, self.model.get_output_embeddings().weight.shape[0]), _NEVER)
        logits_NV[range(count), tokens] = 0.0
        return RowOutput(logits_NV.to(self.device), row.target_N.to(self.device), row.answer_length)

    def _answered(self, row: Row, answer: str) -> list[int]:
        """The tokens of another answer to a row's prompt, with what closes the turn."""
        return self._preparer.answered(row, answer).tolist()

    def _reply(self, tokens: list[int]) -> Reply:
        end = next((place for place, token in enumerate(tokens, 1) if token in self._ends), len(tokens))
        return Reply(self.text_of(tokens), tuple(tokens[:end]))

    def text_of(self, tokens: Sequence[int]) -> str:
        """The answer that tokens are, up to the first that ends it."""
        end = next((i for i, token in enumerate(tokens) if token in self._ends), len(tokens))
        return self.tokenizer.decode(tokens[:end], skip_special_tokens=True).strip()


def _grouped(plans: Sequence[Plan]) -> list[tuple[tuple[WeightsOperation, ...], list[int]]]:
    """Indices of the rows that a model has to be run for, by the changes of weights that act on them."""
    groups: dict[tuple[int | str, ...], tuple[tuple[WeightsOperation, ...], list[int]]] = {}
    for index, one in enumerate(plans):
        if one.answer is None:
            key = tuple(shared_change(op) or id(op) for op in one.weights)
            groups.setdefault(key, (one.weights, []))[1].append(index)
    return list(groups.values())


def _end_tokens(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Tokens that end an answer, by the tokenizer and by the checkpoint's generation settings."""
    settings = getattr(model, "generation_config", None)
    ends = getattr(settings, "eos_token_id", None)
    listed = ends if isinstance(ends, list) else [ends]
    return tuple(dict.fromkeys(token for token in (tokenizer.eos_token_id, *listed) if token is not None))
