"""Small closed-set detectors of transformers: which there are, building them, files, answering, ONNX, model cards."""
