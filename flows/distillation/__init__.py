"""Trains a small detector on the labels of a round, and writes it as a folder and an ONNX file for deployment."""
