"""Processors: load one without torchvision, and complete what old checkpoints do not say."""

from __future__ import annotations

import copy
import importlib.util
from typing import Any

from transformers.utils.hub import PushToHubMixin

__all__ = ["load_processor"]


class _NoVideoProcessor(PushToHubMixin):
    """Stands where a video processor would be, which needs torchvision even to exist; keeps its saved settings."""

    _auto_class = None
    model_input_names = ()
    merge_size, temporal_patch_size, num_frames, fps = 2, 2, 0, 1  # read by some processors for pictures too

    def __init__(self, saved: dict[str, Any] | None = None) -> None:
        self.saved = saved or {}

    def to_dict(self) -> dict[str, Any]:
        return copy.deepcopy(self.saved)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise ImportError("videos need torchvision")

    @classmethod
    def from_pretrained(cls, path: str, *args: Any, **kwargs: Any) -> _NoVideoProcessor:
        from transformers.models.auto.video_processing_auto import get_video_processor_config

        return cls(get_video_processor_config(path, local_files_only=kwargs.get("local_files_only", False)))


def _do_without_video() -> None:
    """Let processors with a video part load for pictures alone where torchvision is missing; once per process."""
    import transformers.processing_utils as processing

    mixin: Any = processing.ProcessorMixin
    mapping: Any = processing._LazyAutoProcessorMapping  # pyright: ignore[reportPrivateUsage]
    if importlib.util.find_spec("torchvision") or hasattr(mixin, "_vlmend_without_video"):
        return
    check, get = mixin.check_argument_for_proper_class, mapping.__getitem__

    def check_argument(self: Any, name: str, argument: Any) -> Any:
        return _NoVideoProcessor if isinstance(argument, _NoVideoProcessor) else check(self, name, argument)

    def get_item(self: Any, key: str) -> Any:
        return _NoVideoProcessor if key == "video_processor" else get(self, key)

    mixin.check_argument_for_proper_class = check_argument
    mapping.__getitem__ = get_item
    mixin._vlmend_without_video = True


def _do_without_number_words() -> None:
    """Let SmolVLM's processor load without num2words, which it asks for at once but needs for videos only."""
    if importlib.util.find_spec("num2words") is None:
        import transformers.models.smolvlm.processing_smolvlm as smolvlm

        smolvlm.num2words = smolvlm.num2words or _no_number_words


def _no_number_words(*args: Any, **kwargs: Any) -> str:
    raise ImportError("videos need num2words")


def load_processor(source: str, config: Any, *, trust_remote_code: bool = False) -> Any:
    """Load the processor of a checkpoint.

    Args:
        source: folder or hub id.
        config: the model's config, for what the processor's files leave out.
        trust_remote_code: run code that comes with the checkpoint.
    """
    _do_without_video()
    _do_without_number_words()
    from transformers import AutoProcessor  # imports all of image processing, which a broken torchvision would break

    processor = AutoProcessor.from_pretrained(source, trust_remote_code=trust_remote_code)
    tokenizer = processor.tokenizer
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    _complete(processor, config)
    return processor


def _complete(processor: Any, config: Any) -> None:
    """Fill in how many visual tokens a picture has, which checkpoints of before 2025 left to the model."""
    vision: Any = getattr(config, "vision_config", None)
    if getattr(processor, "patch_size", 0) is None:
        processor.patch_size = vision.patch_size
    if getattr(processor, "vision_feature_select_strategy", "") is None:
        processor.vision_feature_select_strategy = config.vision_feature_select_strategy
        # "default" drops the class token that CLIP's encoder puts first; the processor has to count it to drop it.
        processor.num_additional_image_tokens = int(config.vision_feature_select_strategy == "default")
