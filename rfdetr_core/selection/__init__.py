"""The best weights: chosen by their scores, and stripped to what loading needs."""
