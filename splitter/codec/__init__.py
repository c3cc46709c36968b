"""Codecs by name. Lossless: what comes out equals what went in, bit for bit."""
