"""The recurrent classifier: an image is read row by row, and the last step's output is classified.

Build it through `models.build_model`, which checks the sizes first.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.recurrence import last_hidden_state

CELLS = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


class RecurrentClassifier(nn.Module):
    """Recurrent layers over an image's rows (tanh RNN, LSTM or GRU), then Linear on the last layer's last state.

    The cells are PyTorch's: Elman (1990) for `rnn`, Hochreiter & Schmidhuber (1997) with forget gates for `lstm`,
    Cho et al. (2014) for `gru`, with the reset gate applied after the product with the state, not before. The report's
    networks have one layer. `bidirectional` (Schuster & Paliwal 1997) adds to each layer one that reads the rows from
    the last to the first; Linear then gets the last states of both, each after all rows. `dropout` is that share of
    the values between layers and before Linear (Zaremba et al. 2014).
    """

    SIZES: ClassVar = {  # what build_model allows: a range, smallest and largest, or choices
        "cell": tuple(CELLS),
        "input_size": (1, 4096),
        "hidden_size": (1, 16_384),
        "classes": (2, 10_000),
        "layers": (1, 100),
        "bidirectional": (False, True),
        "dropout": (0.0, 1.0),
    }
    DEFAULTS: ClassVar = {"layers": 1, "bidirectional": False, "dropout": 0.0}

    def __init__(
        self,
        *,
        cell: str,
        input_size: int,
        hidden_size: int,
        classes: int,
        layers: int,
        bidirectional: bool,
        dropout: float,
    ) -> None:
        """`cell` is "rnn", "lstm" or "gru"; `input_size` is the number of pixels in a row."""
        super().__init__()
        between = dropout if layers > 1 else 0.0  # PyTorch warns of one that has no place
        self.recurrent = CELLS[cell](input_size, hidden_size, layers, dropout=between, bidirectional=bidirectional)
        self.fc = nn.Linear(hidden_size * (1 + bidirectional), classes)
        self.dropout = dropout

    def forward(self, images: Tensor) -> Tensor:
        """Images (batch, 1, rows, pixels) to logits (batch, classes); the rows are the time steps."""
        rows = images.squeeze(1).transpose(0, 1).contiguous()  # (rows, batch, pixels)
        hidden = self.last_state(rows)
        if self.dropout:
            hidden = F.dropout(hidden, self.dropout, self.training)
        if not torch.is_autocast_enabled(images.device.type):
            return self.fc(hidden)  # (batch, classes)
        with torch.autocast(images.device.type, enabled=False):  # so small a product takes longer in bf16
            return self.fc(hidden.float())

    def last_state(self, rows: Tensor) -> Tensor:
        """The last layer's hidden state after all rows (rows, batch, pixels): (batch, hidden), or both directions'."""
        if self.recurrent.num_layers == 1 and not self.recurrent.bidirectional:
            return last_hidden_state(self.recurrent, rows)
        _, last = self.recurrent(rows)  # (layers * directions, batch, hidden), of an LSTM with its cell state
        states = last[0] if isinstance(last, tuple) else last
        return torch.cat(tuple(states[-2:]), dim=1) if self.recurrent.bidirectional else states[-1]
