"""What is trained; here the CNNs, under the names that settings and model files have for them."""

from genre_cls.models.cnn import GenreCNN, TutorialCNN

__all__ = ["GenreCNN", "TutorialCNN"]
