"""The memory of a training process, estimated before anything starts."""
