"""What looks into a network, as pure functions of (model, images) to tensors, a file a method.

Most methods are from Zeiler & Fergus, "Visualizing and Understanding Convolutional Networks" (2013, arXiv 1311.2901),
"the paper" in this package's docstrings; recurrent.py looks into recurrent networks, saliency.py into any. `images` are
always float tensors (n, channels, height, width), normalized as the network was trained and on its device; every
function leaves the model as it found it, training mode included. Read next: chain.py says which networks can be
followed from a feature map back to the image, deconvnet.py follows them.
"""
