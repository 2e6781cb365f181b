"""The HDET paper's own method: `OneCycleAutoLR` and its controller."""
