"""A run's folder (`folder`), which errors are one message (`errors`), several runs at once (`pool`), the protocols."""
