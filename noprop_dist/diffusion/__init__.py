"""The mathematics of NoProp-DT over plain numbers and tensors: no Ray, no configuration objects."""
