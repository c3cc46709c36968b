"""The server's side: calls in, batches through tails, answers out; models, health and metrics."""
