"""Views as batched tensors: every operation on float images, a batch at a time, on the device of the images."""
