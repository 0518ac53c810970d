"""Chat models: what an endpoint replies, refuses or does not say, and the models that are in memory."""

from __future__ import annotations

import socket

import pytest

from loopback import completion
from vlmend import VLM
from vlmend.errors import VlmendError
from vlmend.models.chat import EndpointChat, FolderChat, OwnChat, Said


def test_replies_in_their_order_with_their_seeds(serve) -> None:
    def answer(body):
        return 200, completion(f" {body['messages'][0]['content']} by {body['seed']} ")

    chat = EndpointChat(serve(answer), "small")
    assert chat.replies([f"task {n}" for n in range(20)], list(range(20))) == [
        Said(f"task {n} by {n}") for n in range(20)
    ]


@pytest.mark.parametrize("content", [b"", b"<html>", b"{}", b'{"choices": []}', completion(None), completion(3)])
def test_rubbish_is_said_of_its_task_alone(serve, content) -> None:
    def answer(body):
        return 200, content if body["messages"][0]["content"] == "bad" else completion("good")

    chat = EndpointChat(serve(answer))
    assert chat.replies(["a", "bad", "b"], [0, 0, 0]) == [
        Said("good"),
        Said(None, "the reply is no chat completion"),
        Said("good"),
    ]


def test_a_task_that_is_refused(serve) -> None:
    def answer(body):
        return (400, b"") if body["messages"][0]["content"] == "bad" else (200, completion("good"))

    assert EndpointChat(serve(answer)).replies(["bad", "a"], [0, 0]) == [
        Said(None, "the endpoint refuses it"),
        Said("good"),
    ]


@pytest.mark.parametrize("status", [401, 404, 500, 429])
def test_an_endpoint_that_does_no_task_ends_the_work(serve, status) -> None:
    asked: list[int] = []

    def answer(_):
        asked.append(1)
        return status, b""

    with pytest.raises(VlmendError, match=f"refuses: HTTP {status}"):
        EndpointChat(serve(answer), wait=0.0).replies(["a"], [0])
    assert len(asked) == (1 if status in (401, 404) else 3)


def test_an_endpoint_that_recovers(serve) -> None:
    asked: list[int] = []

    def answer(_):
        asked.append(1)
        return (503, b"") if len(asked) < 3 else (200, completion("good"))

    assert EndpointChat(serve(answer), wait=0.0).replies(["a"], [0]) == [Said("good")]


def test_nobody_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(VlmendError, match="cannot be reached"):
        EndpointChat(f"http://127.0.0.1:{port}/v1", wait=0.0).replies(["a"], [0])
    with pytest.raises(VlmendError, match="begins with http"):
        EndpointChat("file:///etc/passwd")


def test_a_model_of_ones_own(vlm: VLM) -> None:
    chat = OwnChat(vlm, max_new_tokens=6)
    both = chat.replies(["write it again", "what is it ?"], [1, 2])
    assert chat.replies(["what is it ?"], [2]) == both[1:]
    assert all(one.text is not None for one in both)
    mark = vlm.tokenizer.convert_ids_to_tokens(vlm.parts.image_token)
    odd, again = chat.replies([f"a {mark} in it", "what is it ?"], [0, 2])
    assert (odd.text, again) == (None, both[1])


def test_a_model_in_a_folder(llava: VLM, tmp_path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(llava.tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=2, eos_token_id=llava.tokenizer.eos_token_id,
        )
    ).save_pretrained(tmp_path)  # fmt: skip
    llava.tokenizer.save_pretrained(tmp_path)
    chat = FolderChat(str(tmp_path), max_new_tokens=5)
    both = chat.replies(["a long task to be done", "say"], [1, 2])
    assert chat.replies(["say"], [2]) == both[1:]
    with pytest.raises(VlmendError, match="none' is no folder"):
        FolderChat(str(tmp_path / "none")).replies(["a"], [0])


def test_a_folder_is_whole_and_no_pickle_or_it_is_not_read(llava: VLM, tmp_path) -> None:
    """What may run code while it is read is not read; what lacks weights would say noise."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(llava.tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=2,
        )
    ).save_pretrained(tmp_path)  # fmt: skip
    llava.tokenizer.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    FolderChat(str(tmp_path)).check()
    weights = load_file(file)
    save_file({name: tensor for name, tensor in weights.items() if "mlp" not in name}, file, {"format": "pt"})
    with pytest.raises(VlmendError, match="holds no whole chat model"):
        FolderChat(str(tmp_path)).check()
    file.unlink()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    with pytest.raises(VlmendError, match="holds no chat model"):
        FolderChat(str(tmp_path)).replies(["a"], [0])
