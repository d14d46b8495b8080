"""The report's recurrent classifier: an image is read row by row, and the last step's output is classified.

Build it through `models.build_model`, which checks the sizes first.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from models.recurrence import last_hidden_state

CELLS = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


class RecurrentClassifier(nn.Module):
    """One recurrent layer over an image's rows (tanh RNN, LSTM or GRU), then Linear on the last step's output.

    The cells are PyTorch's: Elman (1990) for `rnn`, Hochreiter & Schmidhuber (1997) with forget gates for `lstm`,
    Cho et al. (2014) for `gru`, with the reset gate applied after the product with the state, not before.
    """

    SIZES: ClassVar = {  # what build_model allows: a range, smallest and largest, or choices
        "cell": tuple(CELLS),
        "input_size": (1, 4096),
        "hidden_size": (1, 16_384),
        "classes": (2, 10_000),
    }

    def __init__(self, *, cell: str, input_size: int, hidden_size: int, classes: int) -> None:
        """`cell` is "rnn", "lstm" or "gru"; `input_size` is the number of pixels in a row."""
        super().__init__()
        self.recurrent = CELLS[cell](input_size, hidden_size)
        self.fc = nn.Linear(hidden_size, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images (batch, 1, rows, pixels) to logits (batch, classes); the rows are the time steps."""
        rows = images.squeeze(1).transpose(0, 1).contiguous()  # (rows, batch, pixels)
        hidden = last_hidden_state(self.recurrent, rows)  # (batch, hidden)
        if not torch.is_autocast_enabled(images.device.type):
            return self.fc(hidden)  # (batch, classes)
        with torch.autocast(images.device.type, enabled=False):  # so small a product takes longer in bf16
            return self.fc(hidden.float())
