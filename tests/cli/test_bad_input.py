"""Bad input, on every command that may meet it: one clear line, exit code 2, and nothing half-written."""

from __future__ import annotations

import json
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import vlmend
from vlmend import FT, EditCase
from vlmend.data.formats import mmedit
from vlmend.errors import WriteError
from vlmend.world.train.checkpoint import load_state, save_state
from vlmend.world.train.optim import Pair

QUICK = ("--max-new-tokens", 3)
ONE_STEP = ("--set", "steps=1")
STEPS = {"ft": ("--set", "ft.steps=1"), "rome": ()}


@dataclass(frozen=True)
class Place:
    """What a command is given: each mistake spoils one of these.

    ``model`` is a folder, ``cases`` a file of three cases whose pictures lie beside it, ``edit`` the folder of an edit,
    and ``out`` where the command may write.
    """

    model: Path
    cases: Path
    edit: Path
    out: Path
    question: str = "what is at place 1 ?"
    editor: str = "ft"

    @property
    def picture(self) -> Path:
        return self.cases.parent / "1.jpg"

    def rewritten(self, **fields: Any) -> Place:
        """With other values in the second case."""
        lines = self.cases.read_text().splitlines()
        lines[1] = json.dumps(json.loads(lines[1]) | fields)
        self.cases.write_text("\n".join(lines))
        return self


@pytest.fixture
def place(tiny_folder: Callable[..., Path], picture: Callable[..., Image.Image], tmp_path: Path) -> Place:
    given = tmp_path / "given"
    given.mkdir()
    records: list[dict[str, str]] = []
    for index, answer in enumerate(["red", "two", "a cat"]):
        picture(index).save(given / f"{index}.jpg")
        records.append({"image": f"{index}.jpg", "question": f"what is at place {index} ?", "answer": answer})
    cases = given / "cases.jsonl"
    cases.write_text("\n".join(map(json.dumps, records)))
    return Place(tiny_folder(), cases, given / "edit", tmp_path / "out")


@pytest.fixture(scope="module")
def edit(tiny: Callable[..., Any], cases: list[EditCase], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An edit made for the model of every place."""
    return FT(steps=1).fit(tiny(), cases[:1]).save(tmp_path_factory.mktemp("edits") / "fix")


COMMANDS: dict[str, Callable[[Place], tuple[object, ...]]] = {
    "bench": lambda p: ("bench", p.model, p.cases, "--out", p.out, "--editors", p.editor, *QUICK, *STEPS[p.editor]),
    "edit": lambda p: ("edit", p.model, p.cases, "--out", p.out, "--editor", p.editor, *ONE_STEP, *QUICK),
    "together": lambda p: ("edit", p.model, p.cases, "--out", p.out, "--together", *ONE_STEP, *QUICK),
    "ask": lambda p: ("ask", p.model, p.picture, p.question, *QUICK),
    "doctor": lambda p: ("doctor", p.model, "--json"),  # without it, what is installed is told first
    "summary": lambda p: ("data", "summary", p.cases),
    "leaks": lambda p: ("data", "leaks", p.cases, p.cases, "--out", p.out / "clean.jsonl"),
    "ask with edit": lambda p: ("ask", p.model, p.picture, p.question, "--edit", p.edit, *QUICK),
    "verify": lambda p: ("edits", "verify", p.model, p.edit, *QUICK),
    "merge": lambda p: ("edits", "merge", p.model, p.edit, "--out", p.out),
    "stack": lambda p: ("edits", "stack", p.edit, p.edit, "--out", p.out),
}


FOLDERS = (
    *("align demo x", "bench demo x", "build demo x", "convert minigpt4 x --language y", "demo", "diagnose demo x y"),
    *("measure demo", "sequence demo x", "train-editor ke demo x", "weaken demo x"),
    *(f"world {name}" for name in ("alignment x", "build", "cooperation", "dose", "exemplars", "positives", "table")),
    "world train",
)


@pytest.mark.parametrize("command", FOLDERS)
def test_a_file_is_no_folder_to_write_to(vlmend_cli: Callable[..., Any], tmp_path: Path, command: str) -> None:
    taken = tmp_path / "taken.png"
    taken.write_text("kept")
    for place in (taken, taken / "run"):
        assert vlmend_cli(*command.split(), "--out", place).is_a_users_mistake(
            f"--out {taken} is a file; name a folder"
        )
    assert taken.read_text() == "kept"


def missing_image(place: Place) -> Place:
    place.picture.unlink()
    return place


def damaged_image(place: Place) -> Place:
    """One that Pillow refuses by another exception than one of reading."""
    place.picture.write_bytes(b"P6 4? 64 255 ")
    return place


def no_json(place: Place) -> Place:
    place.cases.write_text("{'image': 1}")
    return place


def no_alt(place: Place) -> Place:
    """The cases as MMEdit publishes them, where a target may be missing."""
    path = place.cases.with_name("evqa.json")
    mmedit.write(vlmend.read(place.cases), path)
    records = json.loads(path.read_text())
    path.write_text(
        json.dumps([record | {"alt": record["alt"] * (index != 1)} for index, record in enumerate(records)])
    )
    return replace(place, cases=path)


def truncated_image(place: Place) -> Place:
    content = place.picture.read_bytes()
    place.picture.write_bytes(content[: len(content) // 2])
    return place


def image_that_is_text(place: Place) -> Place:
    place.picture.write_text("not a picture")
    return place


def blind_model(place: Place) -> Place:
    """A language model, in full."""
    import transformers

    folder = place.cases.parent / "llama"
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=32, **small)).save_pretrained(folder)
    return replace(place, model=folder)


def other_patches(place: Place) -> Place:
    """A model whose processor makes another number of tokens of a picture than its encoder makes states."""
    folder = shutil.copytree(place.model, place.cases.parent / "model")
    settings = json.loads((folder / "processor_config.json").read_text())
    (folder / "processor_config.json").write_text(json.dumps(settings | {"patch_size": 16}))
    return replace(place, model=folder)


@dataclass(frozen=True)
class Mistake:
    """What is spoilt, the commands that meet it, and words of the line that all of them say."""

    spoil: Callable[[Place], Place]
    commands: tuple[str, ...]
    words: tuple[str, ...]


MARKERS = "what is <image> beside <image> ?"
EDITING = ("bench", "edit", "together")
READING = (*EDITING, "summary", "leaks")
ASKING = (*EDITING, "ask")
LOADING = ("bench", "edit", "ask", "doctor")

MISTAKES = {
    "missing image of a case": Mistake(missing_image, EDITING, ("cases.jsonl", "record 1", "1.jpg", "missing")),
    "missing image": Mistake(missing_image, ("ask",), ("1.jpg", "no such file")),
    "truncated JPEG": Mistake(truncated_image, ASKING, ("1.jpg", "truncated")),
    "truncated JPEG of a case": Mistake(truncated_image, EDITING, ("cases.jsonl", "case 'cases-1'", "1.jpg")),
    "image that is text": Mistake(image_that_is_text, ASKING, ("1.jpg", "cannot read the picture")),
    "damaged image": Mistake(damaged_image, ASKING, ("1.jpg", "cannot read the picture", "4?")),
    "wrong JSON type": Mistake(
        lambda place: place.rewritten(answer=5), READING, ("cases.jsonl", "record 1", "'answer'", "line 2", "string")
    ),
    "no JSON": Mistake(no_json, READING, ("cases.jsonl", "line 1", "not JSON")),
    "empty target": Mistake(
        lambda place: place.rewritten(answer=""), READING, ("cases.jsonl", "record 1", "'answer'", "empty")
    ),
    "empty target of E-VQA": Mistake(no_alt, EDITING, ("evqa.json", "case 'evqa-1'", "no target")),
    "unknown editor": Mistake(
        lambda place: replace(place, editor="rome"), ("bench", "edit"), ("no editor named 'rome'", "visual-delta")
    ),
    "model without vision": Mistake(blind_model, LOADING, ("llama", "pictures")),
    "image-token mismatch in a question": Mistake(
        lambda place: replace(place.rewritten(question=MARKERS), question=MARKERS), ASKING, ("1 picture", "2 <image>")
    ),
    "image-token mismatch in a processor": Mistake(other_patches, LOADING, ("model", "processor", "tokens: 4")),
}


@pytest.mark.parametrize(
    ("mistake", "command"), [(name, command) for name, mistake in MISTAKES.items() for command in mistake.commands]
)
def test_a_mistake_is_one_line(vlmend_cli: Callable[..., Any], place: Place, mistake: str, command: str) -> None:
    spoilt = MISTAKES[mistake].spoil(place)
    for form in ((), ("--json",)):
        outcome = vlmend_cli(*COMMANDS[command](spoilt), *form)
        assert outcome.is_a_users_mistake(*MISTAKES[mistake].words)
        assert not spoilt.out.exists()


@pytest.mark.parametrize("spoil", [missing_image, truncated_image, image_that_is_text, damaged_image])
def test_what_has_no_picture_can_be_left_out(
    vlmend_cli: Callable[..., Any], place: Place, spoil: Callable[[Place], Place]
) -> None:
    outcome = vlmend_cli(*COMMANDS["bench"](spoil(place)), "--skip-missing", "--json")
    assert outcome.code == 0, outcome.stderr
    assert outcome.document["cases"] == 2
    assert f"{place.cases}: 1 case left out for a picture" in outcome.stderr


@pytest.mark.parametrize("command", ["ask with edit", "verify", "merge"])
def test_an_edit_for_another_model(
    vlmend_cli: Callable[..., Any], place: Place, edit: Path, tiny_folder: Callable[..., Path], command: str
) -> None:
    spoilt = replace(place, model=tiny_folder("llava", 1), edit=edit)
    assert vlmend_cli(*COMMANDS[command](spoilt), "--json").is_a_users_mistake("fingerprint", "was made for")
    assert not spoilt.out.exists()


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """Within the block the system lets no file grow beyond so many bytes: a real, half-done write, then an error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


CLOSED_BY = {".json": "}\n", ".jsonl": "}\n", ".html": "</html>\n", ".svg": "</svg>\n"}


def files(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def is_whole(path: Path) -> bool:
    """Whether a file ends as it should; the records of a run may end after any of them, or before the first."""
    if path.suffix == ".png":
        return Image.open(path).load() is not None
    content = path.read_text()
    return content.endswith(CLOSED_BY[path.suffix]) or (path.suffix, content) == (".jsonl", "")


IN_ORDER = ["run.json", "records.jsonl", "metrics.json", "figures/metrics.png", "report.html"]


@pytest.mark.parametrize("unwritten", IN_ORDER)
def test_disk_full_under_bench(
    vlmend_cli: Callable[..., Any], place: Place, picture: Callable[..., Image.Image], unwritten: str
) -> None:
    """Whatever cannot be written, what is there is whole, and the same command then goes on to the end."""
    for index in range(3):  # such pictures make the page, which holds them, the largest of its files
        picture(index, (160, 160)).save(place.cases.with_name(f"{index}.jpg"))
    undisturbed = replace(place, out=place.out.with_name("all"))
    assert vlmend_cli(*COMMANDS["bench"](undisturbed)).code == 0
    sizes = [(undisturbed.out / name).stat().st_size for name in IN_ORDER]
    assert sizes == sorted(sizes)
    with full_disk(sizes[IN_ORDER.index(unwritten)] - 50):
        outcome = vlmend_cli(*COMMANDS["bench"](place))
    assert outcome.is_a_users_mistake(str(place.out / unwritten), "cannot be written", "too large")
    left = files(place.out)
    assert [name for name in IN_ORDER if name in left] == IN_ORDER[: IN_ORDER.index(unwritten)] + (
        ["records.jsonl"] if unwritten == "records.jsonl" else []
    )
    assert all(map(is_whole, left.values()))
    assert ("2 finished records, and a run into it goes on" in outcome.stderr) == (unwritten == "records.jsonl")
    assert place.out.exists() == (unwritten != "run.json")
    assert vlmend_cli(*COMMANDS["bench"](place)).code == 0
    assert files(place.out).keys() == files(undisturbed.out).keys()
    records, metrics = (
        [measured((run.out / name).read_text()) for run in (place, undisturbed)] for name in IN_ORDER[1:3]
    )
    assert records[0] == records[1]
    assert metrics[0] == metrics[1]


def measured(text: str) -> str:
    """JSON without costs."""
    return re.sub(r'"(seconds|peak_mb)": [\d.e-]+', "", text)


@pytest.mark.parametrize(("command", "room"), [("edit", 5000), ("together", 5000), ("stack", 5000), ("merge", 20_000)])
def test_disk_full(vlmend_cli: Callable[..., Any], place: Place, edit: Path, command: str, room: int) -> None:
    with full_disk(room):
        outcome = vlmend_cli(*COMMANDS[command](replace(place, edit=edit)))
    assert outcome.is_a_users_mistake(str(place.out), "cannot be written", "too large")
    assert not files(place.out)


def test_disk_full_under_leaks(vlmend_cli: Callable[..., Any], place: Place, fixtures: Path) -> None:
    held = fixtures / "photographs" / "own.jsonl"
    with full_disk(100):
        outcome = vlmend_cli("data", "leaks", place.cases, held, "--out", place.out / "clean.jsonl")
    assert outcome.is_a_users_mistake("clean.jsonl", "cannot be written", "too large")
    assert not files(place.out)


def test_disk_full_under_sample(vlmend_cli: Callable[..., Any], tmp_path: Path) -> None:
    drawn = tmp_path / "drawn" / "scenes.jpg"
    command = ("world", "sample", "--out", drawn, "--columns", 1)
    with full_disk(500):
        outcome = vlmend_cli(*command)
    assert outcome.is_a_users_mistake("scenes.jpg", "cannot be written", "too large")
    assert not files(tmp_path)
    assert vlmend_cli(*command).code == 0
    assert Image.open(drawn).format == "JPEG"


def test_disk_full_under_training(tmp_path: Path) -> None:
    """A checkpoint that cannot be written leaves the one before it, which is read back."""
    checkpoint = tmp_path / "decoder.pt"
    model = torch.nn.Linear(40, 40)
    optimiser = Pair([model.weight], [model.bias], lr=1e-3)
    save_state(checkpoint, model, optimiser, step=1)
    weight = model.weight.detach().clone()
    torch.nn.init.zeros_(model.weight)
    with full_disk(2000), pytest.raises(WriteError, match=r"decoder\.pt cannot be written: File too large"):
        save_state(checkpoint, model, optimiser, step=2)
    assert list(files(tmp_path)) == ["decoder.pt"]
    assert load_state(checkpoint, model, optimiser) == 1
    assert torch.equal(model.weight, weight)


@pytest.fixture
def interrupting(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """`interrupting(n)`: Ctrl-C is pressed when `ft` makes the edit after so many more."""

    def at(count: int) -> None:
        fit, made = FT.fit, iter(range(count))

        def interrupted(self: FT, *given: Any) -> Any:
            if next(made, None) is None:
                monkeypatch.setattr(FT, "fit", fit)
                raise KeyboardInterrupt
            return fit(self, *given)

        monkeypatch.setattr(FT, "fit", interrupted)

    return at


@pytest.mark.parametrize(
    ("command", "done", "words"),
    [
        ("bench", 2, ("out keeps 2 finished records", "a run into it goes on after them")),
        ("bench", 1, ("out keeps 1 finished record", "a run into it goes on after it")),
        ("bench", 0, ("give the same command again",)),
        ("edit", 2, ("the edits for 2 cases are saved in", "out", "the same command makes them anew")),
        ("together", 0, ("give the same command again",)),
    ],
)
@pytest.mark.parametrize("form", [(), ("--json",)])
def test_interrupted(
    vlmend_cli: Callable[..., Any],
    place: Place,
    interrupting: Callable[[int], None],
    command: str,
    done: int,
    words: tuple[str, ...],
    form: tuple[str, ...],
) -> None:
    """Ctrl-C: exit code 130 and one line that says how to go on, which then works."""
    interrupting(done)
    outcome = vlmend_cli(*COMMANDS[command](place), *form)
    assert outcome.code == 130
    (line,) = outcome.stderr.splitlines()
    assert line.startswith("vlmend: interrupted; ")
    assert all(word in line for word in words)
    assert outcome.stdout == ""
    assert place.out.exists() == (done > 0)
    assert vlmend_cli(*COMMANDS[command](place), *form).code == 0
