"""hetcompress."""
