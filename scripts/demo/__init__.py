"""`make demo`: a real Kubernetes, the operator in it, and one FineTuneJob from apply to ONNX."""
