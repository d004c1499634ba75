"""What is trained: the CNNs, the kernel machine, their views of a window; models as files."""
