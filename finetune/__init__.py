"""Train ResNet-18 from random and from pretrained weights on the same images, and record the evidence."""

__version__ = "0.1.0"
