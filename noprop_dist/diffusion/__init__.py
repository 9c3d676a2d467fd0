"""The mathematics of NoProp over plain numbers and tensors: no Ray, no configuration objects."""
