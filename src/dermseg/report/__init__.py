"""Reports: one HTML page that opens anywhere, with its figures as PNG and its tables as CSV beside it."""
