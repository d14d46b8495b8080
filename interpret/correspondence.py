"""Whether the network relates the same part in different images (the paper's section 4.3 and table 1), adapted.

The paper hides the same part of the face (left eye, right eye, nose) in pictures of dogs, and finds that the features
change alike from dog to dog, more alike than when random places are hidden. CIFAR-10 says nowhere where the parts of
its objects lie, so a stand-in is needed; `correspondence` says which, and why.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from interpret.chain import feature_vectors
from interpret.occlusion import hide, occlusion

PARTS = ("class's critical cell", "same random cell", "own critical cell", "random cells")
LAYERS = ("first", "last_convolution", "last_hidden")  # fields of chain.FeatureVectors


class Consistency(NamedTuple):
    """One cell of the table: Δ for one kind of part at one layer. Smaller is more consistent."""

    part: str  # one of PARTS
    layer: str  # one of LAYERS
    mean: float  # over all pairs of all classes, in [0, 1]
    std: float  # of the population
    by_class: Tensor  # float64 (classes present,): mean over each class's pairs, in rising order of label


def correspondence(
    model: nn.Module, images: Tensor, labels: Tensor, *, size: int, stride: int, value: float = 0.0, seed: int = 0
) -> list[Consistency]:
    """Table 1 for every part in PARTS and layer in LAYERS, in that order (parts outer).

    `images` (n, channels, height, width), a few (5 to 10) of each class, `labels` int64 (n,). A square of `size` pixels
    with the value `value` hides a cell of the grid that `occlusion` slides it over by `stride`. With x the feature
    vector of an image at a layer and x̃ that of the image with its cell hidden, ε = x - x̃, and for each pair of images
    of a class the share of features in which sign(ε) differs, the Hamming distance, is taken (section 4.3; signs are
    -1, 0 and 1). Δ is the mean over pairs; the paper sums over pairs, but prints what can only be a mean as well.

    The stand-in for "the same part" is where hiding costs the true class most probability:

    - "class's critical cell": the one cell whose hiding costs the images of the class most on average, hidden in all of
      them. As the same place alone makes changes alike, its control hides the "same random cell" in all of them.
    - "own critical cell": in each image the cell that costs this image most, wherever it lies. Its control are "random
      cells", drawn for each image by itself, the paper's last row.

    Critical cells are chosen on the images that are compared, by probability, one Linear layer above "last_hidden":
    there the choice alone aligns the signs, with random weights as well.

    ValueError as `chain.trace` and `chain.feature_vectors`.
    """
    labels = labels.cpu()
    classes = labels.unique()
    maps = occlusion(model, images, labels, size=size, stride=stride, value=value)
    cost = (maps.clean_probability[:, None, None] - maps.probability).flatten(1)  # (n, cells)
    clean = feature_vectors(model, images)
    table = []
    for part, cells in _cells(cost, labels, torch.Generator().manual_seed(seed)).items():
        rows, columns = maps.rows[cells // len(maps.columns)], maps.columns[cells % len(maps.columns)]
        hidden = feature_vectors(model, hide(images, rows, columns, size, value))
        for layer in LAYERS:
            # ε of the paper: all that counts of a change is where it goes up, down, or nowhere.
            signs = (getattr(clean, layer) - getattr(hidden, layer)).sign().cpu()  # (n, features)
            by_class = [_pair_distances(signs[labels == label]) for label in classes]
            distances = torch.cat(by_class)
            means = torch.stack([each.mean() for each in by_class])
            table.append(Consistency(part, layer, float(distances.mean()), float(distances.std(correction=0)), means))
    return table


def _cells(cost: Tensor, labels: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """For each of PARTS the number of the cell to hide in each image, int64 (n,); `cost` is (n, cells)."""
    images, cells = cost.shape
    critical, same_random = torch.empty_like(labels), torch.empty_like(labels)
    for label in labels.unique():
        members = labels == label
        critical[members] = cost[members].mean(dim=0).argmax()
        same_random[members] = torch.randint(cells, (), generator=generator)
    random = torch.randint(cells, (images,), generator=generator)
    return dict(zip(PARTS, (critical, same_random, cost.argmax(dim=1), random), strict=True))


def _pair_distances(signs: Tensor) -> Tensor:
    """Hamming distance, as a share of the features, of every pair of rows of signs (m, features): float64 (pairs,)."""
    first, second = torch.triu_indices(len(signs), len(signs), offset=1)
    return (signs[first] != signs[second]).double().mean(dim=1)
