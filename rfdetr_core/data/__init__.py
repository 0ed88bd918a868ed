"""Images and their instances: read, augmented, batched. The random draws depend on seed, epoch and image alone."""
