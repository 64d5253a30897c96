"""What concerns a picture as a whole, whether it is restored in tiles or not: its known pixels, its exposure."""
