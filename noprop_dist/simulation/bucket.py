class SimulatedBucket:
    def __init__(self, now): self.stale_seconds=0.0
