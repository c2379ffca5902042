# SPDX-License-Identifier: Apache-2.0
"""Text encoders (BERT) in plain torch, so that every stack runs the same one, whatever else it has.

Token ids in, the last hidden states out: float, (N, sequence, width). Sequences are full: nothing is padded, so there
is no attention mask, and all tokens are of the first segment. Names of parameters are those of `BertModel` in Hugging
Face's transformers, whose state dicts load; the pooler behind the last layer is left out.
"""

import functools
from typing import Any, Dict

from farm.contract.encoders import ENCODERS, POSITIONS, SEGMENTS, VOCABULARY, EncoderSize
from workers.workflows.base import Context
from workers.workflows.errors import Unsupported

#: Counts changes of the architecture and of how random weights are made; part of every cache key.
RECIPE = 1
#: Of normal random weights: BERT's own. The rest gets it too, since a compiler may leave out what is 0 or 1 exactly.
_DEVIATION = 0.02
_EPSILON = 1e-12
#: What state dicts hold beside an encoder's parameters: a head, a table of numbers 0, 1, 2, ....
_BESIDE = ("pooler.", "cls.", "embeddings.position_ids")
_PREFIX = "bert."


def check(ctx: Context) -> None:
    """Refuse what no encoder can be, before anything is imported.

    Raises:
        Unsupported: an encoder that the farm does not know, a sequence that is too long, images as data, weights that
            encoders do not come with, or a memory format of images.
    """
    job, model = ctx.job, ctx.job.model
    if model.name not in ENCODERS:
        raise Unsupported("there is no text encoder {!r}".format(model.name), None, "unknown-model")
    if len(model.input_shape) != 1 or not 1 <= model.input_shape[0] <= POSITIONS:
        raise Unsupported(
            "{} has positions for 1 to {} tokens, not for an input of {}".format(
                model.name, POSITIONS, tuple(model.input_shape)
            ),
            "Set `sequence` to {} at most.".format(POSITIONS),
            "sequence-too-long",
        )
    if job.data != "uniform":
        raise Unsupported(
            "data {!r} are images, and {} takes tokens".format(job.data, model.name),
            "Leave `data` and `accuracy` out: tokens are random.",
            "input-shape-unsupported",
        )
    if model.weights.partition(":")[0] not in ("random", "sha256"):
        raise Unsupported(
            "weights {!r} are not there for text encoders".format(model.weights),
            "Give `random:SEED`, or a state dict of transformers' BertModel by `sha256:HEX`.",
            "unknown-weights",
        )
    if job.options.get("channels_last"):
        raise Unsupported(
            "channels_last is a memory format of images, and {} takes tokens".format(model.name),
            "Leave the option out.",
            "option-unsupported",
        )


def build(torch: Any, model: Any) -> Any:
    """The module for the sequence of a `ModelSpec`, with whatever weights torch gives it."""
    return _class(torch)(ENCODERS[model.name], model.input_shape[0])


def draw(torch: Any, module: Any) -> None:
    """Give it random weights, from torch's seed: around 1 what LayerNorm multiplies with, around 0 all else."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.normal_(1.0 if name.endswith("LayerNorm.weight") else 0.0, _DEVIATION)


def own(state: Dict[str, Any]) -> Dict[str, Any]:
    """What of a state dict of BERT, with or without heads, is the encoder's."""
    bare = {name[len(_PREFIX) :] if name.startswith(_PREFIX) else name: value for name, value in state.items()}
    return {name: value for name, value in bare.items() if not name.startswith(_BESIDE)}


@functools.lru_cache(maxsize=None)
def _class(torch: Any) -> Any:
    """The class, made once torch is imported."""
    nn, functional = torch.nn, torch.nn.functional

    class Encoder(nn.Module):  # type: ignore[misc, name-defined]
        """`length` tokens in each sequence: a number and no question of shapes, in every graph made from it."""

        def __init__(self, size: EncoderSize, length: int) -> None:
            super().__init__()
            self.length, self.width, self.split = length, size.width, (-1, length, size.heads, size.width // size.heads)
            self.embeddings, self.encoder = _embeddings(nn, size.width), nn.ModuleDict()
            self.encoder["layer"] = nn.ModuleList(_layer(nn, size.width) for _ in range(size.layers))

        def forward(self, ids: Any) -> Any:
            """int32 or int64 ids, (N, length), to float hidden states, (N, length, width)."""
            parts = self.embeddings
            words = parts["word_embeddings"](ids) + parts["token_type_embeddings"].weight[0]
            found = parts["LayerNorm"](words + parts["position_embeddings"].weight[: self.length])
            for layer in self.encoder["layer"]:
                attended = layer["attention"]["output"]["dense"](self._attend(layer["attention"]["self"], found))
                found = layer["attention"]["output"]["LayerNorm"](attended + found)
                wide = functional.gelu(layer["intermediate"]["dense"](found))
                found = layer["output"]["LayerNorm"](layer["output"]["dense"](wide) + found)
            return found

        def _attend(self, part: Any, found: Any) -> Any:
            parts = (part[name](found).view(self.split).transpose(1, 2) for name in ("query", "key", "value"))
            if torch.onnx.is_in_onnx_export():
                joined = _attention(torch, self.split[-1], *parts)
            else:
                joined = functional.scaled_dot_product_attention(*parts)
            return joined.transpose(1, 2).reshape(-1, self.length, self.width)

    return Encoder


def _attention(torch: Any, width: int, query: Any, key: Any, value: Any) -> Any:
    """Attention in operators of ONNX, for its exporters.

    Left to themselves they have the scale computed at each inference, from a shape and on the host: a graph that runs
    on two devices, which no CUDA graph can hold.
    """
    scores = torch.matmul(query * (width**-0.5), key.transpose(2, 3))
    return torch.matmul(torch.softmax(scores, dim=-1), value)


def _embeddings(nn: Any, width: int) -> Any:
    tables = {"word_embeddings": VOCABULARY, "position_embeddings": POSITIONS, "token_type_embeddings": SEGMENTS}
    parts = {name: nn.Embedding(count, width) for name, count in tables.items()}
    return nn.ModuleDict(dict(parts, LayerNorm=nn.LayerNorm(width, eps=_EPSILON)))


def _layer(nn: Any, width: int) -> Any:
    def sublayer(inputs: int) -> Any:
        return nn.ModuleDict({"dense": nn.Linear(inputs, width), "LayerNorm": nn.LayerNorm(width, eps=_EPSILON)})

    products = {name: nn.Linear(width, width) for name in ("query", "key", "value")}
    attention = {"self": nn.ModuleDict(products), "output": sublayer(width)}
    return nn.ModuleDict(
        {
            "attention": nn.ModuleDict(attention),
            "intermediate": nn.ModuleDict({"dense": nn.Linear(width, 4 * width)}),
            "output": sublayer(4 * width),
        }
    )
