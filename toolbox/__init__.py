"""Holds `dassl/`, the part of Dassl that we bring along; see `mocoop.plugin.provide_dassl`. Not imported from here."""
