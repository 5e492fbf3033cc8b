"""Reading and writing checkpoints: ours, mmdetection's, IDEA's and Hugging Face's. Incomplete ones are refused."""
