"""Encoders and what trains them: backbones, descriptors, pretrained weights, cached gradients."""
