"""Stores of pages that need a client library of their own; see uvm/store.py."""
