"""Training against hallucination: preferences between answers, what is minimised over them, and the training."""
