"""What is trained: the CNNs, under the names that settings and model files have for them, and the kernel machine."""

from genre_cls.models.cnn import GenreCNN, TutorialCNN

__all__ = ["GenreCNN", "TutorialCNN"]
