"""Zero-shot CLIP: classes named by text, as a linear head on the image tower."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from didae.encoders.open_clip import Clip, image_encoder, load_clip
from didae.encoders.pretrained import quiet
from didae.errors import DidaeError, reason
from didae.students.base import LinearHead
from didae.students.probe import Probe


def zero_shot(spec: str, prompts: Sequence[str]) -> LinearHead:
    """Make a student that compares an image with texts."""
    return text_head(load_clip(spec), prompts)


def open_zero_shot(spec: str) -> LinearHead:
    """Make the student that a name calls for."""
    model, _, texts = spec.rpartition("#")
    prompts = [text.strip() for text in texts.split("|")]
    if not model or not all(prompts):
        raise DidaeError(
            f"zero-shot student {spec!r}: write MODEL/PRETRAINED#TEXT|TEXT, one text per class."
        )
    return zero_shot(model, prompts)


def text_head(clip: Clip, prompts: Sequence[str]) -> LinearHead:
    """Turn texts into the weights of a linear head on the image tower of the same model.

    With unit vectors z of the image and t_k of the texts the model's logits are
    exp(s) t_k · z + b (Radford et al. 2021, figure 3): linear in z.
    """
    if len(prompts) < 2:
        raise DidaeError(
            f"zero-shot student: {len(prompts)} texts; give one per class, at least two."
        )
    import open_clip  # pyright: ignore[reportMissingImports]

    try:
        with quiet():
            tokens = cast("Tensor", open_clip.get_tokenizer(clip.architecture)(list(prompts)))
    except ImportError as error:
        raise DidaeError(
            f"zero-shot student: the tokenizer of {clip.name} needs {error.name}: install it with "
            f"`pip install {error.name}`."
        ) from error
    # Some tokenizers come from the hub, with exceptions of several libraries.
    except Exception as error:
        raise DidaeError(
            f"zero-shot student: the tokenizer of {clip.name} could not be loaded "
            f"({reason(error)}); connect to the network once, or choose another model."
        ) from error
    model: Any = clip.model
    with torch.no_grad():
        texts = functional.normalize(model.encode_text(tokens), dim=-1)
        weight = model.logit_scale.exp() * texts
    shift = torch.zeros(()) if model.logit_bias is None else model.logit_bias.detach()
    return LinearHead(image_encoder(clip), weight, shift.reshape(()).expand(len(texts)))


def probe_of(head: LinearHead) -> Probe:
    """Give the probe of a student that is linear in z_sem: it is exact, nothing is fitted."""
    weight, bias = head.weight.detach().cpu(), head.bias.detach().cpu()
    return Probe(weight - weight[:1], (bias - bias[:1]).double(), head.encoder.fingerprint)
