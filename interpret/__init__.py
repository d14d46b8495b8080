"""What Zeiler & Fergus do to a network, as pure functions of (model, images) to tensors.

Every method is from "Visualizing and Understanding Convolutional Networks" (2013, arXiv 1311.2901), "the paper" in this
package's docstrings. `images` are always float tensors (n, channels, height, width), normalized as the network was
trained and on its device; every function leaves the model as it found it, training mode included. chain.py says which
networks can be followed from a feature map back to the image.
"""

from interpret.activations import LayerStatistics, activation_statistics
from interpret.chain import Layer, convolutions, feature_vectors, trace
from interpret.choice import random_maps, rectified_layers, varied_images
from interpret.correspondence import Consistency, correspondence
from interpret.deconvnet import (
    Box,
    Strongest,
    receptive_fields,
    reconstruct,
    reconstruct_maps,
    strongest_activations,
)
from interpret.evolution import Stage, evolution
from interpret.filters import filter_pictures, filter_weights
from interpret.invariance import Invariance, invariance, transform
from interpret.occlusion import OcclusionMaps, occlusion, square_positions

__all__ = [
    "Box",
    "Consistency",
    "Invariance",
    "Layer",
    "LayerStatistics",
    "OcclusionMaps",
    "Stage",
    "Strongest",
    "activation_statistics",
    "convolutions",
    "correspondence",
    "evolution",
    "feature_vectors",
    "filter_pictures",
    "filter_weights",
    "invariance",
    "occlusion",
    "random_maps",
    "receptive_fields",
    "reconstruct",
    "reconstruct_maps",
    "rectified_layers",
    "square_positions",
    "strongest_activations",
    "trace",
    "transform",
    "varied_images",
]
