"""File formats of edit cases: one small file per published format, into records and back."""
