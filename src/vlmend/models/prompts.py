"""How a question becomes the text that a model reads: its own chat template where there is one, else the bare words."""

from __future__ import annotations

from typing import Any

__all__ = ["Prompter"]


class Prompter:
    """Writes prompts for one model.

    Args:
        processor: the model's processor.
        image_token: what stands for a picture in a text.
        inserts_image: whether the processor puts the picture's place into the text by itself.
    """

    def __init__(self, processor: Any, image_token: str, inserts_image: bool) -> None:
        self._processor = processor
        self._tokenizer = processor.tokenizer
        self._mark = "" if inserts_image else f"{image_token}\n"
        self._template = _template_owner(processor)

    def prompt(self, question: str, has_image: bool) -> str:
        """Everything up to where the answer begins."""
        if self._template is None:
            return self._plain(question, has_image)
        return self._render(question, has_image, None)

    def continuation(self, question: str, has_image: bool, answer: str) -> tuple[str, str]:
        """What follows the prompt when the model gives ``answer``: up to its last word, and what closes the turn."""
        if self._template is not None:
            prompt = self._render(question, has_image, None)
            whole = self._render(question, has_image, answer)
            rest = whole.removeprefix(prompt)
            at = rest.find(answer)
            if whole.startswith(prompt) and at >= 0:
                end = at + len(answer)
                return rest[:end], rest[end:]
            return answer, ""
        return f" {answer}", ""

    def _plain(self, question: str, has_image: bool) -> str:
        return self._mark + question if has_image else question

    def _render(self, question: str, has_image: bool, answer: str | None) -> str:
        """One turn through the chat template, opened for the answer where none is given."""
        if self._template is self._processor:
            picture = [{"type": "image"}] if has_image else []
            asked: Any = [*picture, {"type": "text", "text": question}]
            answered: Any = [{"type": "text", "text": answer}]
        else:
            asked, answered = self._plain(question, has_image), answer
        messages = [{"role": "user", "content": asked}]
        if answer is not None:
            messages.append({"role": "assistant", "content": answered})
        return self._template.apply_chat_template(messages, add_generation_prompt=answer is None, tokenize=False)


def _template_owner(processor: Any) -> Any:
    """Who has the chat template: the processor, else its tokenizer, else nobody."""
    for owner in (processor, processor.tokenizer):
        if getattr(owner, "chat_template", None):
            return owner
    return None
