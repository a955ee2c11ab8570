"""What results and profiles look like, told from the code that writes and reads them: JSON Schemas and a page."""
