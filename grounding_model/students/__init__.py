"""Small closed-set detectors of transformers: building, training, ONNX export. No prompt, no text encoder."""
