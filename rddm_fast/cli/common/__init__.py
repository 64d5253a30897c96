"""What the commands share: the application, errors, options, and the model that an option names."""
