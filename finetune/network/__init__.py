"""The network: stages, pretrained weights, fused evaluation; all that depends on the architecture."""
