"""What a correction is: a frozen value of declarative operations that is saved, loaded, applied and undone."""
