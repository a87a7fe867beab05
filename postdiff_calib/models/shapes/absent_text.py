"""A text encoder that says nothing, in the place of Stable Diffusion 3's third one, the T5.

The stock pipeline cannot be loaded from a folder that lacks its third encoder, and fills in 256 tokens of zeros where
the encoder is ``None``: four times the tokens of the embedded model's images, in every joint attention. This one gives
a single token of zeros (the pipeline takes no fewer), so no argument has to be passed and next to nothing is computed.
"""

from __future__ import annotations

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin


class AbsentTextEncoder(ModelMixin, ConfigMixin):
    """Token numbers (B, L) to hidden states (B, 1, D) of zeros.

    Args:
        hidden_size: D, the transformer's ``joint_attention_dim``.
    """

    @register_to_config
    def __init__(self, hidden_size: int = 256) -> None:
        super().__init__()
        self.token = torch.nn.Parameter(torch.zeros(1, hidden_size), requires_grad=False)

    def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor]:
        """One token of zeros for every caption."""
        return (self.token.expand(len(input_ids), 1, self.token.shape[1]),)
