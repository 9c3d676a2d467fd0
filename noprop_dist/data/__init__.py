"""Data sets as arrays in memory: uint8 images or float32 vectors, always split into train, validation, test."""
