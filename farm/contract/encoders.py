# SPDX-License-Identifier: Apache-2.0
"""Text encoders that can be asked for by name: their sizes. A table, nothing imported."""

from typing import Dict, NamedTuple

#: What `ModelSpec.source` says for them.
SOURCE = "encoder"

#: BERT's uncased vocabulary, the longest sequence that it has positions for, kinds of segments, and the id of padding.
VOCABULARY, POSITIONS, SEGMENTS, PADDING = 30522, 512, 2, 0
#: The sequence that a sweep means which names none.
DEFAULT_SEQUENCE = 128


class EncoderSize(NamedTuple):
    """Layers, width of the hidden states and attention heads; the feed-forward part is four times as wide."""

    layers: int
    width: int
    heads: int

    @property
    def parameters(self) -> int:
        """How many there are, without the pooler that published counts include."""
        norm = 2 * self.width
        embedded = (VOCABULARY + POSITIONS + SEGMENTS) * self.width + norm
        attention = 4 * (self.width * self.width + self.width) + norm
        feed_forward = 8 * self.width * self.width + 5 * self.width + norm
        return embedded + self.layers * (attention + feed_forward)


#: J. Devlin et al., arXiv 1810.04805 (base, large); I. Turc et al., arXiv 1908.08962 (the smaller ones).
ENCODERS: Dict[str, EncoderSize] = {
    "bert-tiny": EncoderSize(2, 128, 2),
    "bert-mini": EncoderSize(4, 256, 4),
    "bert-small": EncoderSize(4, 512, 8),
    "bert-medium": EncoderSize(8, 512, 8),
    "bert-base": EncoderSize(12, 768, 12),
    "bert-large": EncoderSize(24, 1024, 16),
}
