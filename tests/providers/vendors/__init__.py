"""The vendors, a file of cases each."""
