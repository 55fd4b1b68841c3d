"""A run's networks for other runtimes: ONNX, or the text of torch programs."""
