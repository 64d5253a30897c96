"""Where a model comes from: its folder, a published checkpoint, a diffusers pipeline, or the built-in ones."""
