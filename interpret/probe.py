"""How much a linear classifier reads off the features after each layer (the paper's section 5.3 and table 7)."""

import contextlib
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interpret.chain import BATCH, evaluating, trace

LARGEST_SIDE = 8  # rows and columns that larger maps are averaged to: a probe of every pixel would take minutes
LARGEST = 4096  # features of a layer, for which many maps are averaged further
PENALTY = 1e-4  # of the weights; ten times as much fits the features of deep layers less well
STEPS = 100


def layer_features(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """The features of images (n, channels, height, width) after each layer, by its name: float32 (n, features).

    First `images`, the pixels themselves; then each convolution with the ReLU and pooling behind it, named by the
    convolution; last what the last Linear module is given, named by the Linear module that makes it. Maps larger than
    8 x 8 are averaged down to that, and further where a layer would have more than 4096 features. ValueError as
    `chain.trace`.
    """
    chain = trace(model, images)
    convolution, ends = "", {}
    for layer in chain:
        convolution = layer.name if isinstance(layer.module, nn.Conv2d) else convolution
        ends[convolution] = layer.module  # of each convolution the last module before the next one
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    seen: dict[str, Tensor] = {}

    def keep(name: str, values: Tensor) -> None:
        if values.ndim == 4 and name != "images":
            largest = max(1, min(LARGEST_SIDE, math.isqrt(LARGEST // values.shape[1])))
            if max(values.shape[2:]) > largest:
                values = F.adaptive_avg_pool2d(values, largest)
        seen[name] = values.flatten(1).float().clone()  # copied, because a later module may work in place

    batches = []
    with contextlib.ExitStack() as hooks, evaluating(model):
        for name, module in ends.items():
            hooks.enter_context(module.register_forward_hook(lambda _, inputs, output, name=name: keep(name, output)))
        if len(linear) > 1:
            last = model.get_submodule(linear[-1])
            hooks.enter_context(last.register_forward_pre_hook(lambda _, inputs: keep(linear[-2], inputs[0])))
        for batch in images.split(BATCH):
            keep("images", batch)
            model(batch)
            batches.append(dict(seen))
    return {name: torch.cat([batch[name] for batch in batches]) for name in ["images", *ends, *linear[-2:-1]]}


def probe(features: Tensor, labels: Tensor, classes: int, penalty: float = PENALTY) -> nn.Linear:
    """The linear classifier of features (n, features) into labels int64 (n,) < `classes`: a softmax regression.

    It has the smallest mean cross-entropy + penalty / 2 · |W|². Features are first centered and scaled so that their
    mean squared norm is 1: then one penalty suits layers of any size. L-BFGS from zero, until no entry of the gradient
    is above 1e-5, or for 100 steps. What it returns takes features as they came.
    """
    mean = features.mean(dim=0)
    scale = 1 / (features - mean).square().sum(dim=1).mean().sqrt().clamp(min=1e-12)
    scaled = (features - mean) * scale
    weight = torch.zeros(classes, features.shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    rule = {"max_iter": STEPS, "max_eval": 2 * STEPS, "tolerance_grad": 1e-5, "tolerance_change": 0}
    optimizer = torch.optim.LBFGS([weight, bias], line_search_fn="strong_wolfe", **rule)

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(F.linear(scaled, weight, bias), labels) + penalty / 2 * weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    classifier = nn.Linear(features.shape[1], classes, device="meta")
    with torch.no_grad():
        classifier.weight, classifier.bias = map(nn.Parameter, (weight * scale, bias - (weight * scale) @ mean))
    return classifier
