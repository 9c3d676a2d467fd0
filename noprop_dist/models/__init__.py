"""Networks of the blocks, (x, z_{t-1}) → logits, and the classifier on z_T: plain torch modules."""
