"""What commands show beside their answers: errors, progress, costs, summaries."""
