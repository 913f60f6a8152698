"""Holds `dassl/`, our version of a part of Dassl, which is `dassl` where none is installed (`mocoop.plugin`)."""
