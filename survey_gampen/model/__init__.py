"""Network, head, targets, dropout masks and checkpoints."""
