"""The report as one HTML file: figures, pictures, and every sample's questions and answers."""
