"""What a network is given for a picture, and how much of its result the picture takes: `given.given`."""
