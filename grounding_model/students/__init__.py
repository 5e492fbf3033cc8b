"""Small closed-set detectors of transformers: building, loading and saving, inference, ONNX export."""
