"""Load a model from its folder, a published checkpoint or a diffusers pipeline, or load a built-in one."""
