"""Holds `dassl/`, the part of Dassl that we bring along: it is `dassl` where none is installed (`mocoop.plugin`)."""
