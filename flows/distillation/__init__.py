"""Teaching a small detector with the labels of a round, and writing it as a folder and an ONNX file to ship."""
