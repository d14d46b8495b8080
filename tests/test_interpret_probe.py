"""A linear probe of each layer: the right features, and the optimum that scikit-learn finds."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from interpret_networks import lenet5
from sklearn.linear_model import LogisticRegression
from torch import nn

from interpret.probe import layer_features, probe


def test_features_of_lenet5_are_what_each_layer_hands_on():
    model, pictures = lenet5()
    features = layer_features(model, pictures)
    assert list(features) == ["images", "features.conv1", "features.conv2", "classifier.fc1"]
    maps, classifier = model.eval().features, model.classifier
    with torch.no_grad():
        first = maps.pool1(maps.relu1(maps.conv1(pictures)))
        second = maps.pool2(maps.relu2(maps.conv2(first)))
        hidden = classifier.activation(classifier.fc1(second.flatten(1)))
    for name, expected in zip(features, (pictures, first, second, hidden), strict=True):
        torch.testing.assert_close(features[name], expected.flatten(1))


def test_maps_larger_than_eight_are_averaged_and_the_image_is_not():
    chain = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 256, 2))
    pictures = torch.rand(4, 1, 16, 16)
    features = layer_features(chain, pictures)
    with torch.no_grad():
        maps = F.avg_pool2d(chain[1](chain[0](pictures)), 2)
    torch.testing.assert_close(features["0"], maps.flatten(1))
    assert features["images"].shape == (4, 256) and list(features) == ["images", "0"]


def test_many_maps_are_averaged_further():
    chain = nn.Sequential(nn.Conv2d(1, 300, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(300 * 36, 2))
    pictures = torch.rand(4, 1, 6, 6)
    features = layer_features(chain, pictures)
    with torch.no_grad():
        maps = F.avg_pool2d(chain[1](chain[0](pictures)), 2)
    torch.testing.assert_close(features["0"], maps.flatten(1))  # 300 times 3 x 3, not 6 x 6
    wide = nn.Sequential(nn.Conv2d(1, 5000, 1), nn.Flatten(), nn.Linear(5000 * 36, 2))
    assert layer_features(wide, pictures)["0"].shape == (4, 5000)  # at least the mean of each map


@pytest.mark.parametrize("penalty", [1e-2, 1e-3, 1e-4])
def test_probe_is_scikit_learns_softmax_regression(penalty):
    drawn = torch.Generator().manual_seed(0)
    features = torch.randn(300, 20, generator=drawn) * torch.linspace(0.1, 30, 20) + 5
    labels = (features[:, -3:] + 20 * torch.randn(300, 3, generator=drawn)).argmax(dim=1)
    ours = probe(features, labels, 3, penalty)
    centered = (features - features.mean(dim=0)).double().numpy()
    scaled = centered / np.sqrt((centered**2).sum(axis=1).mean())
    # scikit-learn minimizes C · (sum of the losses) + |W|² / 2.
    theirs = LogisticRegression(C=1 / (penalty * 300), tol=1e-10, max_iter=10_000).fit(scaled, labels.numpy())
    with torch.no_grad():
        probabilities = ours(features).softmax(dim=1).numpy()
    np.testing.assert_allclose(probabilities, theirs.predict_proba(scaled), atol=2e-3)
