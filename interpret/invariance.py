"""How features move when the image is translated, scaled or rotated (the paper's section 4 and figure 5)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interpret.chain import feature_vectors


@dataclass(frozen=True)
class Invariance:
    """Curves over the amount of one transformation, float32 on the CPU, one column an image."""

    kind: str  # "translation" (pixels down, negative is up), "scale" (factor), "rotation" (degrees counterclockwise)
    amounts: Tensor  # (k,)
    first: Tensor  # (k, n): Euclidean distance from the untransformed image's feature vector at the first layer
    last_hidden: Tensor  # (k, n): the same at the last hidden layer
    probability: Tensor  # (k, n) of the true class, in [0, 1]
    first_norm: Tensor  # (n,): length of the untransformed image's feature vector, to compare distances with
    last_hidden_norm: Tensor


def transform(images: Tensor, kind: str, amount: float, *, fill: float = 0.0) -> Tensor:
    """Translate, scale or rotate images (n, channels, height, width) about their center, at their size.

    `kind` is "translation" (vertical, `amount` in pixels, positive moves the content down), "scale" (`amount` is the
    factor, above 0; 2 shows the middle half enlarged) or "rotation" (`amount` in degrees, counterclockwise). Bilinear
    interpolation; what comes in from outside the image has the value `fill`: 0.0, mid-gray for images normalized from
    [0, 1] by 0.5 and 0.5, unless told otherwise (-1.0 is black there). At amount 0 (scale 1) the images come back as
    they were.
    """
    height, width = images.shape[2:]
    # Where each pixel of the result is looked up in the image: affine_grid's matrix, in coordinates from -1 to 1.
    if kind == "translation":
        matrix = [[1, 0, 0], [0, 1, -2 * amount / height]]
    elif kind == "scale":
        matrix = [[1 / amount, 0, 0], [0, 1 / amount, 0]]
    else:
        cosine, sine = math.cos(math.radians(amount)), math.sin(math.radians(amount))
        matrix = [[cosine, -sine * height / width, 0], [sine * width / height, cosine, 0]]
    # In float64 on the CPU, so that whole pixels stay whole pixels; these are a few images only.
    exact = images.cpu().double()  # on the CPU first: MPS has no float64
    theta = torch.tensor(matrix, dtype=torch.float64).expand(len(images), 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)  # (n, height, width, 2)
    moved = F.grid_sample(exact - fill, grid, mode="bilinear", padding_mode="zeros", align_corners=False) + fill
    return moved.to(images)


def invariance(
    model: nn.Module, images: Tensor, labels: Tensor, kind: str, amounts: Sequence[float], *, fill: float = 0.0
) -> Invariance:
    """Distance of the feature vectors from the untransformed ones, and the true class's probability (figure 5).

    `images` (n, channels, height, width), `labels` int64 (n,). The feature vectors are those of
    `chain.feature_vectors`: first layer (the paper's layer 1) and last hidden layer (its layer 7). `kind`, `amounts`
    and `fill` as in `transform`. ValueError as `chain.feature_vectors`.
    """
    clean = feature_vectors(model, images)
    labels = labels.to(images.device)[:, None]
    first, last_hidden, probability = [], [], []
    for amount in amounts:
        # Batches are cut as for the untransformed images, so that the same image gives the same numbers bit by bit.
        moved = feature_vectors(model, transform(images, kind, amount, fill=fill))
        first.append((moved.first - clean.first).norm(dim=1))
        last_hidden.append((moved.last_hidden - clean.last_hidden).norm(dim=1))
        probability.append(moved.logits.softmax(dim=1).gather(1, labels).squeeze(1))
    return Invariance(
        kind,
        torch.tensor(list(amounts), dtype=torch.float32),
        *(torch.stack(curves).float().cpu() for curves in (first, last_hidden, probability)),
        clean.first.norm(dim=1).float().cpu(),
        clean.last_hidden.norm(dim=1).float().cpu(),
    )
