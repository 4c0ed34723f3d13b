"""Small data sets that ship with numbarnn, for examples, tests and first steps."""

from numbarnn.datasets.japanese_vowels import load_japanese_vowels

__all__ = ["load_japanese_vowels"]
