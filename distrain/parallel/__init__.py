"""How a model is laid over ranks: engines, and their state as global tensors."""
