"""Measured before and after: what an edit changed, and what it should have left alone."""
