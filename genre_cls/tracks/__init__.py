"""From audio files to tracks with genres and artists, their folds and their features."""
