"""What a sequence holds, which sequences are kept, and which begin alike."""
