"""Pure functions of tensors, and the tensors that parts of the core hand on."""
