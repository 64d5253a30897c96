"""The fused steps of DDRM, DDNM and Cold Diffusion, and the transforms between them, one op per file."""
