"""Who did what: a file of JSON lines that shows where a line was changed or taken out."""
