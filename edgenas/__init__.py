"""edgenas: from a dataset, a device and a budget to a model that is measured to fit."""

__version__ = "0.1.0"
