"""Vectors in fewer bytes: codebooks that encode, decode and search.

book.py     codebooks: fp16, bit streams, the largest components
tables.py   what bits stand for, and how many an axis gets
trellis.py  which bits to choose where neighbours share them
reader.py   decode and search, in numpy alone: exports carry this file
compiled.py its inner loop as machine code
"""

from core.codes.book import Bits, Book, Drawn, Half, Largest, bit_stream, indexed, opened, shared

__all__ = ["Bits", "Book", "Drawn", "Half", "Largest", "bit_stream", "indexed", "opened", "shared"]
