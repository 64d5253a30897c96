"""The modules of a folded U-Net: the same functions as `diffusion.unet`'s, on channels-last images."""
