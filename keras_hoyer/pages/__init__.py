"""Self-contained pages: tables that can be sorted, and pictures, in one file."""

from keras_hoyer.pages.page import Part, facts, paragraphs, picture, side_by_side, table, write

__all__ = ["Part", "facts", "paragraphs", "picture", "side_by_side", "table", "write"]
