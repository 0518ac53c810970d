"""The benchmarks that are asked from published files, by name: the files that each needs, and what makes a suite."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from PIL import Image

from vlmend.data.formats import amber, coco, llava_bench, mmhal, mmvet, object_halbench, pope
from vlmend.data.formats.files import read_object
from vlmend.data.questions import Answer, Key, ObjectQuestion, OpenQuestion
from vlmend.data.records import Example
from vlmend.errors import DataError, UnknownNameError, VlmendError
from vlmend.evaluation.hallucination.amber_whole import PROTOCOLS as AMBER
from vlmend.evaluation.hallucination.amber_whole import amber_whole
from vlmend.evaluation.hallucination.asking import Result, Suite, pictured, pope_suite
from vlmend.evaluation.hallucination.chair import DEFAULT as CHAIR
from vlmend.evaluation.hallucination.chair import chair, true_objects
from vlmend.evaluation.hallucination.chair import protocol_of as chair_protocol
from vlmend.evaluation.hallucination.extracting import judged_object_halbench
from vlmend.evaluation.hallucination.object_halbench import PROTOCOLS as OBJECT_HALBENCH
from vlmend.evaluation.hallucination.object_halbench import listed_words
from vlmend.evaluation.hallucination.object_halbench import object_halbench as counted
from vlmend.evaluation.hallucination.pope import DEFAULT as POPE
from vlmend.evaluation.judged.benchmark import Benchmark, judged
from vlmend.evaluation.judged.judge import Judge
from vlmend.evaluation.judged.shelf import BENCHMARKS

__all__ = ["SUITES", "Given", "PublishedSuite"]

DESCRIPTION = 512  # tokens of an answer that may be long
CAPTION = "Please describe this image in detail."
"""What OPERA (arXiv 2311.17911) and others ask for the captions of CHAIR."""

_NUMBER = re.compile(r"(\d+)\.(?:jpe?g|png)$", re.IGNORECASE)


@dataclass(frozen=True)
class Given:
    """What a suite is made of.

    Attributes:
        file: the benchmark's questions.
        beside: role -> another file; those not given are looked for beside the first and in the folder above.
        images: the folder with the pictures; the file's own by default.
        protocol: how it is scored; the suite's default without one.
        limit: ask only the first so many.
        skip_missing: leave out questions whose picture is not there or cannot be read.
        judge: who judges, or lists objects.
        prompt: a file with another prompt for the judge.
    """

    file: Path
    beside: Mapping[str, Path]
    images: Path | None = None
    protocol: str | None = None
    limit: int | None = None
    skip_missing: bool = False
    judge: Judge | None = None
    prompt: Path | None = None

    @property
    def folder(self) -> Path:
        """Where the pictures are."""
        return self.file.parent if self.images is None else self.images

    def other(self, role: str, name: str) -> Path:
        """The file in a role: the one that was given, else the one of that usual name."""
        if role in self.beside:
            return self.beside[role]
        places = (self.file.parent / name, self.file.parent.parent / name)
        return next((one for one in places if one.is_file()), places[0])


@dataclass(frozen=True)
class PublishedSuite:
    """A benchmark that is asked from its published files.

    Attributes:
        file: the usual name of the first, for messages.
        make: a suite of what is given.
        beside: role -> usual name of the others; without one where none need be given.
        judged: whether its answers need a judge.
    """

    file: str
    make: Callable[[Given], Suite]
    beside: Mapping[str, str | None]
    judged: bool = False


def _pope(given: Given) -> Suite:
    questions = pope.read(given.file)[: given.limit]
    way = given.protocol or POPE
    return pope_suite(given.file, questions, given.folder, protocol=way, skip_missing=given.skip_missing)


def _chair(given: Given) -> Suite:
    way = chair_protocol(given.protocol or CHAIR).name
    words = coco.read_synonyms(given.beside.get("synonyms", coco.SYNONYMS))
    objects = _objects(given.file, given, words, way)
    wanted = [(key, key, picture) for key, picture in _coco_pictures(given.folder, list(objects))]
    found = pictured(given.file, wanted, skip_missing=given.skip_missing, limit=given.limit)
    asked = [(key, Example(CAPTION, picture)) for key, picture in found]
    return Suite("chair", asked, lambda answers: chair(answers, objects, protocol=way, synonyms=words), DESCRIPTION)


def _amber(given: Given) -> Suite:
    way = given.protocol or next(iter(AMBER))
    if way not in AMBER:
        raise UnknownNameError("AMBER protocol", way, AMBER)
    whole = amber.read(given.file, given.other("annotations", "annotations.json"))
    words = amber.read_associations(given.other("relation", "relation.json"))
    texts, yes_no = whole.descriptions[: given.limit], whole.yes_no[: given.limit]
    wanted = [(one.id, one, given.folder / one.image) for one in (*texts, *yes_no)]
    found = pictured(given.file, wanted, skip_missing=given.skip_missing)
    kept = {one.id for one, _ in found}
    questions = amber.Questions(
        tuple(one for one in texts if one.id in kept), tuple(one for one in yes_no if one.id in kept)
    )
    asked = [(one.id, Example(one.question, picture)) for one, picture in found]
    longest = DESCRIPTION if questions.descriptions else Suite.max_new_tokens
    return Suite("amber", asked, lambda answers: amber_whole(questions, answers, words, protocol=way), longest)


def _object_halbench(given: Given) -> Suite:
    way = given.protocol or next(iter(OBJECT_HALBENCH))
    if way not in OBJECT_HALBENCH:
        raise UnknownNameError("Object HalBench protocol", way, OBJECT_HALBENCH)
    questions = object_halbench.read(given.file)[: given.limit]
    words = coco.read_synonyms(given.beside.get("synonyms", coco.SYNONYMS))
    objects = _objects(given.other("objects", "objects.json"), given, words, CHAIR)
    for index, one in enumerate(questions):
        if one.image_id not in objects:
            problem = f"it is not known what picture {one.image_id!r} shows"
            raise DataError(problem, path=given.file, record=index, field="image_id")
    asked = list(_shown(given, questions))
    if not asked:
        raise DataError("none of its pictures can be read", path=given.file)

    def score(answers: Sequence[Answer]) -> Result:
        about = [(one, questions[int(one.id)]) for one in answers]
        named = [replace(one, id=of.image_id, question=of.question) for one, of in about]
        if given.judge is None:
            return counted(named, objects, listed_words(words), synonyms=words, protocol=way)
        return judged_object_halbench(named, objects, given.judge, synonyms=words, protocol=way)

    return Suite("object-halbench", asked, score, DESCRIPTION)


def _judged(given: Given, benchmark: Benchmark, read: Callable[[Given], Sequence[OpenQuestion]]) -> Suite:
    way = benchmark.protocol(given.protocol).name
    prompt = None if given.prompt is None else benchmark.own_prompt(given.prompt)
    judge = given.judge
    if judge is None:
        raise VlmendError(f"suite '{benchmark.name}' needs a judge")
    named = _named_pictures(given.folder)
    wanted = [(one.id, one, _picture(given.folder, named, one)) for one in read(given)[: given.limit]]
    found = pictured(given.file, wanted, skip_missing=given.skip_missing)
    questions = [one for one, _ in found]
    asked = [(one.id, Example(one.question, picture)) for one, picture in found]
    return Suite(
        benchmark.name,
        asked,
        lambda answers: judged(benchmark, questions, answers, judge, protocol=way, prompt=prompt),
        DESCRIPTION,
    )


def _llava_suite(name: str, questions: str, contexts: str, references: str) -> PublishedSuite:
    """One of LLaVA-Bench's, by the usual names of its files."""

    def read(given: Given) -> Sequence[OpenQuestion]:
        return llava_bench.read(given.file, given.other("context", contexts), given.other("reference", references))

    beside = {"context": contexts, "reference": references}
    return PublishedSuite(questions, partial(_judged, benchmark=BENCHMARKS[name], read=read), beside, judged=True)


def _objects(path: Path, given: Given, words: str, protocol: str) -> dict[Key, frozenset[str]]:
    """Picture -> what it shows, from a table, or from COCO's instances and the captions beside them."""
    if "annotations" not in read_object(path):
        return coco.read_objects(path)
    captions = coco.read_captions(given.other("captions", "captions_val2014.json"))
    return true_objects(coco.read_instances(path), captions, protocol=protocol, synonyms=words)


def _coco_pictures(folder: Path, keys: Sequence[Key]) -> list[tuple[Key, Path]]:
    """Each picture's file: the one whose name ends in its number."""
    numbers: dict[Key, Path] = {int(found[1]): path for path in _files(folder) if (found := _NUMBER.search(path.name))}
    return [(key, numbers.get(key, folder / f"COCO_val2014_{key:0>12}.jpg")) for key in keys]


def _named_pictures(folder: Path) -> Mapping[str, Path]:
    """Name, with and without its ending -> file."""
    files = _files(folder)
    return {path.stem: path for path in files} | {path.name: path for path in files}


def _picture(folder: Path, named: Mapping[str, Path], question: OpenQuestion) -> Path:
    """A question's picture: by the file's or the picture's name, or by the name that it has where it comes from."""
    source = mmhal.source_name(question)
    for name in filter(None, (question.image, Path(question.image).stem, source)):
        if name in named:
            return named[name]
    ends = [path for name, path in named.items() if source and name.endswith(f"_{source}")]
    return ends[0] if ends else folder / (question.image if Path(question.image).suffix else source or question.image)


def _files(folder: Path) -> Sequence[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else ()


def _shown(given: Given, questions: Sequence[ObjectQuestion]) -> Iterator[tuple[int, Example]]:
    """The questions with the pictures that stand in the file itself, by their places there."""
    for index, one in enumerate(questions):
        try:
            with Image.open(io.BytesIO(one.picture)) as opened:
                picture = opened.convert("RGB")
        except Exception as error:  # whatever a decoder comes upon
            if given.skip_missing:
                continue
            problem = f"is no picture: {error}; skip_missing leaves such questions out"
            raise DataError(problem, path=given.file, record=index, field="image") from error
        yield index, Example(one.question, picture)


SUITES: Mapping[str, PublishedSuite] = {
    "pope": PublishedSuite("coco_pope_random.json", _pope, {}),
    "chair": PublishedSuite("objects.json", _chair, {"captions": None, "synonyms": None}),
    "amber": PublishedSuite("query_all.json", _amber, {"annotations": "annotations.json", "relation": "relation.json"}),
    "object-halbench": PublishedSuite(
        "obj_halbench_300_with_image.jsonl",
        _object_halbench,
        {"objects": "objects.json", "captions": None, "synonyms": None},
    ),
    "mmvet": PublishedSuite(
        "mm-vet.json",
        partial(_judged, benchmark=BENCHMARKS["mmvet"], read=lambda given: mmvet.read(given.file)),
        {},
        judged=True,
    ),
    "llava-bench": _llava_suite("llava-bench", "questions.jsonl", "context.jsonl", "answers_gpt4.jsonl"),
    "llava-bench-coco": _llava_suite(
        "llava-bench-coco", "qa90_questions.jsonl", "caps_boxes_coco2014_val_80.jsonl", "qa90_gpt4_answer.jsonl"
    ),
    "mmhal": PublishedSuite(
        "response_template.json",
        partial(_judged, benchmark=BENCHMARKS["mmhal"], read=lambda given: mmhal.read(given.file)),
        {},
        judged=True,
    ),
}
"""Name -> benchmark."""
