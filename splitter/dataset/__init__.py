"""Data to calibrate on: a folder of files as samples, and what the model is fed for each."""

from splitter.dataset.dataset import Dataset, Sample, open_dataset

__all__ = ["Dataset", "Sample", "open_dataset"]
