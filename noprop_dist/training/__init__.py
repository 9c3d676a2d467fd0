"""Trainers of one block and of the classifier as plain classes, and the sequential engine; no Ray."""
