"""Where a journal can be sent on: Prometheus, TensorBoard, a webhook."""
