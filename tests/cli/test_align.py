"""`vlmend align`: from a file of pairs to a saved edit, alone and in two processes."""

from __future__ import annotations

import json

import pytest
from transformers import TrainerCallback
from transformers.integrations import integration_utils

from aligning import ended, losses, sets, settings, trained
from launching import both_by_torchrun
from vlmend import Edit
from vlmend.alignment.objectives import LOSSES
from vlmend.alignment.recipes import OBJECTIVES


def test_pairs_become_an_edit(vlmend_cli, tiny_folder, pairs_file, tmp_path) -> None:
    out = tmp_path / "run"
    done = vlmend_cli("align", tiny_folder(), pairs_file, "--out", out, *sets("batch=4"), "--json")
    assert done.code == 0, done.stderr
    assert done.document["pairs"] == 8 and done.document["skipped"] == 0
    edit = Edit.load(out / "edit")
    assert edit.id == done.document["edit"] and edit.method == "align bpo"
    assert losses(out)[3] < losses(out)[1]
    shown = vlmend_cli("edits", "show", out / "edit")
    assert shown.code == 0 and "align bpo" in shown.stdout
    again = vlmend_cli("align", tiny_folder(), pairs_file, "--out", out, *sets("batch=4"))
    assert again.code == 0 and str(out / "edit") in again.stdout


def test_an_edit_in_force_is_part_of_what_is_aligned(vlmend_cli, tiny_folder, pairs_file, tmp_path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert vlmend_cli("align", tiny_folder(), pairs_file, "--out", first, *sets()).code == 0
    given = ("--edit", first / "edit", "--objective", "sft")
    assert vlmend_cli("align", tiny_folder(), pairs_file, "--out", second, *sets(), *given).code == 0
    assert Edit.load(second / "edit").fitted_on == (Edit.load(first / "edit").id,)


def test_the_help_names_every_objective(vlmend_cli) -> None:
    shown = vlmend_cli("align", "--help").stdout
    assert all(name in shown for name in OBJECTIVES.keys() | LOSSES.keys())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--objective", "dpoo"), ("dpoo", "bpo")),
        (("--objective", "bpo +"), ("objective 'bpo +'", "lacks an objective after the '+'")),
        (("--set", "lr=x"), ("--set lr=x:", "setting 'lr' of the training: it should be a valid number, not 'x'")),
        (("--set", "rank=x"), ("--set rank=x:", "adapter 'lora'", "not 'x'")),
        (("--adapter", "prefix"), ("prefix", "lora")),
        (("--set", "rnak=3"), ("rnak",)),
        (("--set", "lr=fast"), ("lr",)),
        (("--adapter", "full"), ("cached=true",)),
        (("--set", "modules=attn,mlp"), ("'modules'", 'written as JSON: \'modules=["attn", "mlp"]\'')),
        (("--set", "alpha=nan"), ("alpha is a number above 0, not nan",)),
        (("--set", "seed=-1"), ("seed is a whole number from 0",)),
        (("--set", "schedule=silly"), ("no schedule named 'silly'", "cosine")),
        (("--report-to", "nonsense"), ("--report-to", "'nonsense'", "tensorboard", "wandb")),
    ],
)
def test_a_wrong_option_is_one_line(vlmend_cli, tiny_folder, pairs_file, tmp_path, given, words) -> None:
    out = tmp_path / "run"
    assert vlmend_cli("align", tiny_folder(), pairs_file, "--out", out, *given).is_a_users_mistake(*words)
    assert not out.exists()


@pytest.mark.parametrize(("name", "package"), [("tensorboard", "tensorboard"), ("comet_ml", "comet-ml")])
def test_a_logger_that_is_not_installed_is_one_line(
    vlmend_cli, tiny_folder, pairs_file, tmp_path, monkeypatch, name, package
) -> None:
    def absent() -> None:
        raise RuntimeError("it is not there")

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, name, absent)
    out = tmp_path / "run"
    done = vlmend_cli("align", tiny_folder(), pairs_file, "--out", out, "--report-to", name)
    assert done.is_a_users_mistake(f"--report-to {name}", f"pip install {package}", "it is not there")
    assert not out.exists()


def test_what_is_reported_is_what_is_recorded(vlmend_cli, tiny_folder, pairs_file, tmp_path, monkeypatch) -> None:
    logged = {}

    class Logger(TrainerCallback):
        def on_log(self, args, state, control, logs, **more) -> None:
            if "loss" in logs:
                logged[state.global_step] = logs["loss"]

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "wandb", Logger)
    for name, out in (("none", tmp_path / "quiet"), ("wandb", tmp_path / "loud")):
        assert not logged
        done = vlmend_cli("align", tiny_folder(), pairs_file, "--out", out, *sets("batch=4"), "--report-to", name)
        assert done.code == 0, done.stderr
    assert logged == losses(tmp_path / "loud") == losses(tmp_path / "quiet")
    assert set(logged) == {1, 2, 3}


def test_a_missing_picture_is_named(vlmend_cli, tiny_folder, pairs_file, tmp_path) -> None:
    records = json.loads(pairs_file.read_text())
    records[2]["image"] = "gone.png"
    file = tmp_path / "pairs.json"
    file.write_text(json.dumps(records))
    given = ("align", tiny_folder(), file, "--images", pairs_file.parent, "--out", tmp_path / "run", *sets())
    assert vlmend_cli(*given).is_a_users_mistake("gone.png", "record 2", "--skip-missing")
    assert vlmend_cli(*given, "--skip-missing", "--json").document["pairs"] == 7


def test_what_is_left_out_is_named_with_its_reason(vlmend_cli, tiny_folder, pairs_file, tmp_path) -> None:
    """Whether it was so when the file was read or when the model was asked; one bad pair stops nothing."""
    records = [
        {"id": f"good-{n}", "prompt": "what is this", "chosen": "a red cat", "rejected": "a blue cat", "images": [one]}
        for n, one in enumerate(("0.png", "1.png"))
    ]
    records += [records[0] | {"id": "empty", "chosen": ""}, records[0] | {"id": "gone", "images": ["gone.png"]}]
    records += [records[0] | {"id": "same", "rejected": "a red cat"}]
    records += [records[0] | {"id": "marked", "rejected": "a <image> cat"}]
    records += [records[0] | {"id": "blind", "images": []}]
    file, out = tmp_path / "pairs.jsonl", tmp_path / "run"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    given = ("align", tiny_folder(), file, "--images", pairs_file.parent, "--skip-missing", "--objective", "mdpo")
    done = vlmend_cli(*given, "--out", out, *sets())
    assert done.code == 0, done.stderr
    noted = settings(out)["skipped"]
    assert [one["id"] for one in noted] == ["empty", "gone", "same", "marked", "blind"]
    assert "2 pairs, 5 left out" in done.stdout
    assert all(f"1 × {one['reason']}: {one['id']}" in done.stdout for one in noted)
    document = vlmend_cli(*given, "--out", out, *sets(), "--json").document
    assert document["skipped"] == 5 and document["left_out"] == noted
    none = vlmend_cli(*given, "--out", tmp_path / "none", "--set", "longest=5")
    assert none.is_a_users_mistake("pairs.jsonl: of 7 pairs none", "'empty'")


def test_two_processes_train_as_one_does(tiny_folder, pairs_file, tmp_path) -> None:
    for name, launch, batch in (("one", (), 4), ("two", both_by_torchrun(), 2)):
        ended(trained(tiny_folder(), pairs_file, tmp_path / name, *launch, "-m", "vlmend", more=(f"batch={batch}",)))
    assert settings(tmp_path / "one")["processes"] == 1 and settings(tmp_path / "two")["processes"] == 2
    one, other = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert one.keys() == other.keys() == {1, 2, 3}
    assert all(one[step] == pytest.approx(other[step], abs=1e-3) for step in one)
    records = [json.loads(line) for line in (tmp_path / "two" / "records.jsonl").read_text().splitlines()]
    assert all(record["processes"] == 2 for record in records)
