"""A run's folder, which errors are one message, several runs at once (`pool`, shown by `board`), protocols, sweeps."""
